"""The editors of the page: opened once, each with a short name and the words that open it on a command line."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmig.base.paths import resolved
from mmig.editor import ATTACHMENTS, Editor, ShowsAttention, read_fields
from mmig.evaluation.opening import Opened, open_named
from mmig.evaluation.overrides import settable
from mmig.run.edit_options import configured

DEFAULT = "configs/editors/tiny_instruction.yaml"
"""What is opened where nothing is named: weights of this repository, so no download."""
DESCRIPTIONS = frozenset({"response", "target_caption"})
"""Fields that --response fills."""


@dataclass(frozen=True)
class System:
    """An editor on the page.

    Attributes:
        name: short, another one for each system.
        opened: the editor, and what is known of it.
        words: what opens it on the command line of edit.py.
        device: where it is.
    """

    name: str
    opened: Opened
    words: tuple[str, ...]
    device: torch.device

    @property
    def editor(self) -> Editor:
        """As it was opened, with its own settings."""
        return self.opened.editor

    @property
    def shows_attention(self) -> bool:
        """Whether it can say where it looked."""
        return shows_attention(self.editor)

    @property
    def needs(self) -> "Needs":
        """What it takes as it was opened."""
        return needs_of(self.editor)


def shows_attention(editor: Editor) -> bool:
    """Whether an editor can say under its settings where it looked."""
    return isinstance(editor, ShowsAttention) and editor.attends_to_words


@dataclass(frozen=True)
class Needs:
    """What an editor takes, and what it cannot do without.

    Attributes:
        reads_picture: whether it edits a picture.
        reads_description: whether it takes a description of the goal.
        needs_description: whether somebody must give one: it edits by it, and writes none itself.
        kinds: of attachments that it takes.
        needed_kinds: of them, those that must be there.
    """

    reads_picture: bool
    reads_description: bool
    needs_description: bool
    kinds: tuple[str, ...]
    needed_kinds: tuple[str, ...]


def needs_of(editor: Editor) -> Needs:
    """What an editor takes under its settings, as edit.py sees it."""
    reads, needed = read_fields(editor), editor.required_fields
    described = read_fields(configured(editor, None, "a description"))
    writes = "response" not in needed or "response" in settable(editor)
    return Needs(
        "source" in reads,
        bool(DESCRIPTIONS & {*described}),
        not writes or {"source", "target_caption"} <= {*needed},
        tuple(kind for kind, field in ATTACHMENTS.items() if field in reads),
        tuple(kind for kind, field in ATTACHMENTS.items() if field in needed),
    )


def open_systems(names: Sequence[str], device: torch.device) -> list[System]:
    """Open what --checkpoint names.

    Args:
        names: runs, checkpoints, exported folders, or YAML files of configurations; none opens `DEFAULT`.
        device: where to.

    Raises:
        ValueError: one cannot be opened.
    """
    systems = []
    for name, short in zip(names or [DEFAULT], short_names(names or [DEFAULT]), strict=True):
        is_config = Path(name).suffix in (".yaml", ".yml")
        path = str(resolved(name)) if is_config else name
        opened = open_named(None, path, device=device) if is_config else open_named(name, device=device)
        words = ("--config" if is_config else "--checkpoint", name)
        systems.append(System(short, opened, words, device))
    return systems


def short_names(names: Sequence[str]) -> list[str]:
    """A name for each path: its last part without a suffix of YAML; numbered where several are alike."""
    stems = []
    for name in names:
        path = Path(name)
        stems.append(path.stem if path.suffix in (".yaml", ".yml") else path.name or str(path.resolve().name))
    return [
        stem if stems.count(stem) == 1 else f"{stem} ({stems[: place + 1].count(stem)})"
        for place, stem in enumerate(stems)
    ]
