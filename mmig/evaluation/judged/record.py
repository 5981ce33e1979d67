"""judge.jsonl: every reply as it was given, one line a question, written as soon as it is there.

A line is {"item", "question", "pass", "prompt_hash", "pictures", "judge", "time", "reply", "scores", "failure"}: key of
the item and name of the question; which of several passes; hash of the words; hashes of the pictures' files; who
judged, with its settings; when (UTC); the reply as written, or null; the scores that it surely gives (`replies`), or
null; why there are none, or "". Results are computed from `reply`, so that a better reader needs no new judging.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from mmig.base.files import write_json_lines
from mmig.base.locks import HeldError, hold
from mmig.evaluation.judged.items import JudgedError

logger = logging.getLogger(__name__)
FILE = "judge.jsonl"
LOCK = ".judge.lock"
Place = tuple[str, str, int]
"""Item, question and pass."""
_ASKED = ("prompt_hash", "judge")
_FIELDS = ("item", "question", "pass", "prompt_hash", "pictures", "judge", "reply", "scores", "failure")


class Record:
    """The replies of one folder; holds it against other processes while it is open.

    Args:
        folder: where judge.jsonl is or will be.

    Raises:
        JudgedError: another process judges into the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            self._lock = hold(folder / LOCK)
        except HeldError as error:
            raise JudgedError(f"--out {folder}: another process judges into this folder; wait for it") from error
        self._file: Any = None

    def __enter__(self) -> "Record":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        os.close(self._lock)

    def begin(self, wanted: Mapping[Place, Mapping[str, Any]]) -> dict[Place, dict[str, Any]]:
        """The rows that are there already, of those that are wanted.

        Rows about other pictures are dropped, for the picture has changed or come; a line says how many. Those of items
        and passes that are not wanted stay.

        Args:
            wanted: by place what its row must say: `prompt_hash`, `pictures` and `judge`.

        Raises:
            JudgedError: rows of another judge or other words are there; or a line is none of this file.
        """
        kept: dict[Place, dict[str, Any]] = {}
        num_lines = 0
        for number, row in enumerate(self._rows(), 1):
            num_lines += 1
            place = row["item"], row["question"], row["pass"]
            facts = wanted.get(place, row)
            for name in _ASKED:
                if row[name] != facts[name]:
                    raise JudgedError(
                        f"{self.path}, line {number}: {name} is {row[name]!r} and would be {facts[name]!r}; give "
                        "another --out, so that replies to other words or of other judges do not mix"
                    )
            if row["pictures"] == facts["pictures"]:
                kept.setdefault(place, row)
        if num_lines > len(kept):
            logger.info("%s: %d rows about other pictures are dropped", self.path, num_lines - len(kept))
            write_json_lines(self.path, list(kept.values()))
        self._file = self.path.open("a", encoding="utf-8")
        return {place: row for place, row in kept.items() if place in wanted}

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row; it is on disk, as far as a killed process is concerned, when this returns."""
        self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
        self._file.flush()

    def _rows(self) -> Iterator[dict[str, Any]]:
        """Whole lines; a last one that a killed process was writing is cut off."""
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                missing = [name for name in _FIELDS if name not in row]
            except (ValueError, TypeError) as error:
                raise JudgedError(f"{self.path}, line {number}: is no row of a judge ({error})") from error
            if missing:
                raise JudgedError(f"{self.path}, line {number}: expected a field {missing[0]!r}")
            yield row
