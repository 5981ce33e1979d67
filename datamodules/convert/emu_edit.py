"""Emu Edit's benchmark (Sheynin et al. 2023): parquet files of requests, and of the answers that Emu Edit itself gave.

Columns: `instruction`, `image`, `task`, `split`, `idx`, `hash`, `input_caption`, `output_caption`; in the set with the
answers also `edited_image`, and there the splits' names are swapped: its `validation` is the benchmark's test set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from datamodules.convert.source import ConversionError
from datamodules.convert.table_source import TableSource
from datamodules.convert.tables import Rows, column_names
from datamodules.schema import ANSWER, Sample

_SIZES = {"val": 2022, "test": 3589}
_ANSWER = "edited_image"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmuEdit(TableSource):
    """Requests have no true target; Emu Edit's answers become attachments (role `answer`), never targets.

    Attributes:
        swapped: whether the splits' names are swapped; "auto" goes by the published sizes and, where a part of the set
            gives none, by whether the answers are there.
    """

    name: ClassVar[str] = "emu_edit"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {split: {"entries": size} for split, size in _SIZES.items()}
    required: ClassVar[tuple[str, ...]] = ("source", "instruction")
    swapped: Literal["auto", "yes", "no"] = "auto"

    def columns(self) -> Mapping[str, str]:
        """The published ones."""
        return {
            "source": "image",
            "instruction": "instruction",
            "source_caption": "input_caption",
            "target_caption": "output_caption",
            "edit_type": "task",
        }

    def kept(self) -> Sequence[str]:
        """What tells a row from others, in both sets."""
        return ("idx", "hash", "split")

    def splits(self) -> dict[str, Sequence[Any]]:
        """The benchmark's splits, by their right names."""
        splits = super().splits()
        if not set(splits) <= set(_SIZES):
            raise ConversionError(f"{self.source}: expected the splits validation and test, found {sorted(splits)}")
        if not self._is_swapped(splits):
            return splits
        _log.warning("%s: its splits' names are swapped; validation becomes test, test becomes val", self.source)
        right = {"val": splits.get("test"), "test": splits.get("val")}
        return {name: replace(rows, split=name) for name, rows in right.items() if rows is not None}

    def _is_swapped(self, splits: Mapping[str, Rows]) -> bool:
        if self.swapped != "auto":
            return self.swapped == "yes"
        sizes = {(name, len(rows)) for name, rows in splits.items()}
        if sizes <= set(_SIZES.items()):
            return False
        if sizes <= {("val", _SIZES["test"]), ("test", _SIZES["val"])}:
            return True
        return any(_ANSWER in column_names(rows) for rows in splits.values())

    def sample_of(self, key: str, row: dict[str, Any]) -> Sample:
        """A request, with Emu Edit's answer attached where there is one."""
        sample = super().sample_of(key, row)
        if (answer := self.picture(row, _ANSWER)) is not None:
            sample["attachments"] = [{"kind": "image", "data": answer, "role": ANSWER}]
        return sample
