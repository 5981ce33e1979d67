"""Edits of an evaluation that has not ended: a file a rank that grows line by line, and what a resume reads of it."""

import base64
import io
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mmig.base.files import write_json
from mmig.base.locks import HeldError, hold
from mmig.evaluation.rows import SampleRow

logger = logging.getLogger(__name__)
FOLDER = ".rows.part"
"""In the folder of an evaluation, until it has ended."""
HEADER = "evaluation.json"
"""What the rows are of."""
LOCK = "lock"
"""Held by rank 0 of the evaluation that writes there."""


@dataclass(frozen=True)
class FinishedEdit:
    """One edit, with all that the end of an evaluation needs of it.

    Attributes:
        row: what it scored, under the sample's own key.
        place: of the sample in the split; None where the data do not say it.
        position: as `rows.tell_apart` wants it: the place, or None for a sample that is another's duplicate if both
            have one key.
        picture: the edited picture, uint8 [H,W,3], of the few that a grid may show.
    """

    row: SampleRow
    place: int | None = None
    position: int | None = None
    picture: NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)

    @property
    def identity(self) -> tuple[str, int | None, int]:
        """Which edit it is: key and place of the sample, and the seed."""
        return self.row.key, self.place, self.row.seed

    def to_line(self) -> str:
        """One line of JSON in ASCII, which gives the same numbers back bit for bit, NaN among them."""
        features = {name: _coded(value.astype("<f4").tobytes()) for name, value in self.row.features.items()}
        picture = None if self.picture is None else _coded(_as_png(self.picture))
        places = {"place": self.place, "position": self.position}
        return json.dumps({**places, "row": self.row.to_dict(), "features": features, "picture": picture}) + "\n"

    @classmethod
    def from_line(cls, line: bytes) -> "FinishedEdit":
        """What `to_line` wrote.

        Raises:
            ValueError, KeyError, TypeError: it did not write this.
        """
        found = json.loads(line)
        features = {name: np.frombuffer(base64.b64decode(text), "<f4") for name, text in found["features"].items()}
        png = None if found["picture"] is None else io.BytesIO(base64.b64decode(found["picture"]))
        picture = None if png is None else np.asarray(Image.open(png))
        return cls(SampleRow(**found["row"], features=features), found["place"], found["position"], picture)


class Unfinished:
    """The finished edits of one evaluation, below its folder.

    Args:
        directory: folder of the evaluation.
        rank: whose file `add` writes to; no two ranks share one.
    """

    def __init__(self, directory: Path, rank: int = 0) -> None:
        self.folder = directory / FOLDER
        self._own = self.folder / f"{rank}.jsonl"
        self._lock: int | None = None

    def begin(self, facts: Mapping[str, Any]) -> list[FinishedEdit]:
        """The finished edits of an evaluation of the same facts (values of JSON), whatever number of ranks made them.

        Those of another evaluation are dropped, and a line says so. On rank 0, before any rank adds something.

        Raises:
            ValueError: naming a file that evaluate.py did not write; or another process evaluates into this folder.
        """
        self._hold()
        before = self._header()
        changed = None if before is None else difference(before, facts)
        if changed is None and before is not None:
            return list(self._read())
        if changed is not None and self.has_edits:
            count = sum(path.read_bytes().count(b"\n") for path in self._files())
            told = "%s: begins anew; %d edits of an evaluation that did not end are dropped, for %s"
            logger.info(told, self.folder.parent, count, changed)
        for path in self._files():  # before the facts are others
            path.unlink()
        write_json(self.folder / HEADER, dict(facts))
        return []

    def add(self, edits: Iterable[FinishedEdit]) -> None:
        """Append edits of this rank; each is on disk, as far as a killed process is concerned, when this returns."""
        with self._own.open("a", encoding="ascii") as file:
            file.write("".join(edit.to_line() for edit in edits))

    def clear(self) -> None:
        """Forget everything; on rank 0."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def leave(self) -> bool:
        """Let other processes in; whether no edit is there to go on with, so that all traces have gone and may go.

        False where this process has not begun, for then what is there belongs to another.
        """
        if self._lock is None:
            return False
        is_empty = not self.has_edits
        if is_empty:
            self.clear()
        os.close(self._lock)
        self._lock = None
        return is_empty

    @property
    def has_edits(self) -> bool:
        """Whether any rank has written a whole edit."""
        return any(b"\n" in path.read_bytes() for path in self._files())

    def _hold(self) -> None:
        """Keep other processes out, as long as this one lives."""
        try:
            self._lock = hold(self.folder / LOCK)
        except HeldError as error:
            raise ValueError(
                f"--out {self.folder.parent}: another process evaluates into this folder; wait for it, or give another"
            ) from error

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.jsonl"))

    def _header(self) -> dict[str, Any] | None:
        """The facts of the edits; None where there are none, or it was written by something else."""
        path = self.folder / HEADER
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise ValueError(f"{path}: expected what evaluate.py writes ({error}); remove {self.folder}") from error
        return found if isinstance(found, dict) else {}

    def _read(self) -> Iterator[FinishedEdit]:
        for path in self._files():
            content = path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if len(whole) < len(content):  # the process was killed amid a line; what comes next must not join it
                with path.open("r+b") as file:
                    file.truncate(len(whole))
            for number, line in enumerate(whole.splitlines(), start=1):
                try:
                    yield FinishedEdit.from_line(line)
                except (ValueError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{path}, line {number}: expected an edit of evaluate.py, found {line[:60]!r}; remove "
                        f"{self.folder} to begin anew"
                    ) from error


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """The first fact, of values of JSON, that differs: "sampling.num_steps was 20 and is 50"; None if none does."""
    was, now_is = _flat(before), _flat(now)
    for name in [*now_is, *(name for name in was if name not in now_is)]:
        values = [facts.get(name, "not there") for facts in (was, now_is)]
        if repr(values[0]) != repr(values[1]):  # also where a number is NaN
            return f"{name} was {_short(values[0])} and is {_short(values[1])}"
    return None


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in value.items():
        found |= _flat(part, f"{prefix}{name}.") if isinstance(part, dict) and part else {f"{prefix}{name}": part}
    return found


def _short(value: Any, most: int = 60) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _coded(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _as_png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()
