"""A JSON Lines file beside a run that grows row by row, whole at every moment, and follows the run when it resumes."""

import json
import logging
from pathlib import Path
from typing import Any

from mmig.base.files import write_json_lines

_log = logging.getLogger(__name__)


class RowFile:
    """Rows in the order of one of their numbers.

    Args:
        path: the file; it is there once it has a row.
        order: name of the number, "step" for instance.
    """

    def __init__(self, path: Path, order: str) -> None:
        self.path = path
        self.order = order

    def read(self) -> list[dict[str, Any]]:
        """All rows; none where there is no file."""
        if not self.path.is_file():
            return []
        return [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]

    def add(self, row: dict[str, Any]) -> None:
        """Write the file anew with `row` at its end; strict JSON, so that numbers in it must be finite.

        Rows of the same number and of later ones go: they are of work that was done again after a resume. A file that
        cannot be written is no reason to end a run, least of all on one rank alone: it is said, and the row is lost.
        """
        try:
            before = [old for old in self.read() if old[self.order] < row[self.order]]
            write_json_lines(self.path, [*before, row])
        except OSError as error:
            _log.warning("%s: %s %s is not written: %s", self.path, self.order, row[self.order], error)
