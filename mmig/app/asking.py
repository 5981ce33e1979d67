"""What an edit is asked to be, as the words of edit.py, and the limits of what the page takes."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmig.app.controls import as_words
from mmig.app.systems import System

LONGEST_TEXT = 2_000
"""Characters; what an editor reads of it is less."""
LARGEST_SEED = 2**63 - 1
LARGEST_COUNT = 2_000
"""Of steps, tokens and the like."""
LARGEST_SIDE = 1_024
"""Pixels that are edited; larger pictures are made smaller, and the edit larger again."""
MOST_RESULTS = 8
MOST_CELLS = 25
UNPACKED = Path("edited")
"""Folder that an archive of an edit holds."""
NAMES = {
    "image": "Picture",
    "instruction": "Instruction",
    "response": "Description",
    "attach": "Attachments",
    "sampling": "Settings",
    "resolution": "Resolution",
    "seed": "Seed",
    "steps": "Steps",
    "checkpoint": "System",
}
"""What the page calls the options of edit.py."""
_NAMED = re.compile(r"--([a-z-]+)(?: (?:image|audio)(?:=FILE)?)?")


class RequestError(ValueError):
    """What was asked for cannot be done; one sentence says what to do instead."""


@dataclass(frozen=True)
class EditRequest:
    """One edit of one system.

    Attributes:
        instruction: what to do.
        response: description of the goal; "" lets the editor do without, or write it.
        picture: name of the file to edit, None for none.
        attachments: (kind, name of the file) each, in the order of their placeholders.
        seed: of the noise.
        resolution: longer side in pixels; None: the editor's own.
        settings: of sampling, those that differ from the editor's own.
        attention: whether it is to show where it looked.
    """

    instruction: str
    response: str = ""
    picture: str | None = None
    attachments: tuple[tuple[str, str], ...] = ()
    seed: int = 0
    resolution: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    attention: bool = False

    def words(self, folder: Path | None = None) -> list[str]:
        """Options of edit.py, without those that open an editor and name the result.

        Args:
            folder: of the files; None names them alone.
        """

        def place(name: str) -> str:
            return name if folder is None else str(folder / name)

        words = [] if self.picture is None else ["--image", place(self.picture)]
        words += _option("--instruction", self.instruction)
        words += _option("--response", self.response) if self.response else []
        for kind, name in self.attachments:
            words += ["--attach", f"{kind}={place(name)}"]
        words += ["--seed", str(self.seed)]
        words += [] if self.resolution is None else ["--resolution", str(self.resolution)]
        words += ["--sampling", *as_words(self.settings)] if self.settings else []
        words += ["--show-attention", place("attention.png")] if self.attention else []
        return words

    def command(self, system: System) -> str:
        """The command line that does this edit, where the archive of its files was unpacked."""
        device = [] if str(system.device) == "cpu" else ["--device", str(system.device)]
        out = ["--out", str(UNPACKED / "again.png")]
        return shlex.join(["python", "edit.py", *system.words, *self.words(UNPACKED), *device, *out])


def _option(name: str, text: str) -> list[str]:
    """An option with its text; in one word where the text looks like an option itself."""
    return [f"{name}={text}"] if text.startswith("-") else [name, text]


def check_text(name: str, text: Any) -> str:
    """A text of the page without spaces around it.

    Raises:
        RequestError: it is none, longer than is read, or has characters that no text has.
    """
    if not isinstance(text, str):
        raise RequestError(f"{name}: this is no text; write what you want in words.")
    if len(text) > LONGEST_TEXT:
        raise RequestError(
            f"{name}: this has {len(text):,} characters and at most {LONGEST_TEXT:,} are taken; say it in fewer words."
        )
    if "\0" in text:
        raise RequestError(f"{name}: this has a character that is none (NUL); write it anew.")
    return " ".join(text.split())


def check_whole(name: str, value: Any, low: int, high: int) -> int:
    """A whole number of the page.

    Raises:
        RequestError: it is none, or out of range.
    """
    is_whole = isinstance(value, int | float) and not isinstance(value, bool) and float(value).is_integer()
    if not is_whole or not low <= value <= high:
        raise RequestError(f"{name}: {value!r} cannot be used; give a whole number from {low:,} to {high:,}.")
    return int(value)


def check_settings(settings: Mapping[str, Any]) -> None:
    """Refuse counts that would keep the page busy for hours; the editor checks the rest itself.

    Raises:
        RequestError: naming the setting.
    """
    for name, value in settings.items():
        if isinstance(value, int) and not isinstance(value, bool) and value > LARGEST_COUNT:
            raise RequestError(f"{name}: {value:,} is more than the page takes; give at most {LARGEST_COUNT:,}.")


def in_words(error: Exception) -> str:
    """An error of edit.py's functions, with the page's names in place of options and without paths of this machine."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = re.sub(r"(--image|--attach (?:image|audio)=?) ?/\S*?([\w.-]+)(?=[:\s])", r"\1", text)
    return _NAMED.sub(lambda found: f"“{NAMES.get(found[1], found[1])}”", text)
