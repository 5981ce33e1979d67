"""Emu Edit's benchmark: its swapped names of splits, its answers, and the sizes of the published sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from datamodules.convert.emu_edit import EmuEdit
from datamodules.convert.source import ConversionError
from tests.datamodules.convert.benchmarks import emu_edit_source, emu_edit_table
from tests.datamodules.convert.layouts import write_parquet
from tests.datamodules.convert.results import converted, samples

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.parametrize("answers", [False, True])
def test_emu_edits_splits_get_their_right_names(answers: bool, tmp_path: Path) -> None:
    converted(EmuEdit(emu_edit_source(tmp_path / "source", answers)), tmp_path / "out")
    found = {split: samples(tmp_path / "out" / split) for split in ("val", "test")}
    assert [s["instruction"] for s in found["test"].values()] == ["test 0", "test 1", "test 2"]
    assert list(found["val"]) == ["val-0000000"] and min(found["test"]) == "test-0000000"
    sample = found["test"]["test-0000001"]
    assert sample["edit_type"] == "add" and sample["metadata"] == {"idx": 1, "hash": "00000001", "split": "test"}
    assert (sample["source_caption"], sample["target_caption"]) == ("before 1", "after 1")


@pytest.mark.parametrize("name", ["image", "instruction"])
def test_rows_of_emu_edit_without_what_an_edit_needs_are_dropped(name: str, tmp_path: Path) -> None:
    table = emu_edit_table(3, "test", answers=False)
    table |= {name: [None, *table[name][1:]], "input_caption": [None] * 3}  # which it can do without
    write_parquet(tmp_path / "source" / "data" / "test-00000-of-00001.parquet", table)
    report = converted(EmuEdit(str(tmp_path / "source")), tmp_path / "out")
    assert report["splits"]["test"]["dropped"] == {"field": 1} and report["splits"]["test"]["samples"] == 2


def test_emu_edits_own_answers_are_attached_and_are_no_targets(tmp_path: Path) -> None:
    converted(EmuEdit(emu_edit_source(tmp_path / "source", True)), tmp_path / "out")
    sample = samples(tmp_path / "out" / "val")["val-0000000"]
    assert "target" not in sample
    (attachment,) = sample["attachments"]
    assert (attachment["kind"], attachment["role"]) == ("image", "answer")


@pytest.mark.parametrize(("swapped", "expected"), [("yes", "validation"), ("no", "test")])
def test_the_swap_can_be_said(swapped: str, expected: str, tmp_path: Path) -> None:
    source = EmuEdit(emu_edit_source(tmp_path, False), swapped=swapped)  # type: ignore[arg-type]
    _, row = next(iter(source.splits()["test"].read()))
    assert row["instruction"] == f"{expected} 0"


@pytest.mark.parametrize("answers", [False, True])
def test_whole_sets_are_told_by_their_sizes(answers: bool, tmp_path: Path) -> None:
    """The sizes decide even where the answers' column says the other; only texts are made here, no pictures."""
    sizes = {"validation": 2022, "test": 3589} if answers else {"validation": 3589, "test": 2022}
    for name, size in sizes.items():
        table: dict[str, list[Any]] = {
            "instruction": ["x"] * size,
            **({"edited_image": [None] * size} if answers else {}),
        }
        write_parquet(tmp_path / "data" / f"{name}-00000-of-00001.parquet", table, rows_in_group=5000)
    source = EmuEdit(str(tmp_path))
    splits = source.splits()
    assert {split: len(rows) for split, rows in splits.items()} == {"val": 2022, "test": 3589}
    source.check_totals(splits)


def test_a_part_of_emu_edit_is_refused_unless_it_is_called_one(tmp_path: Path) -> None:
    source = EmuEdit(emu_edit_source(tmp_path, False))
    with pytest.raises(ConversionError, match="split 'val' of emu_edit has 1 entries, the published one 2,022"):
        source.check_totals(source.splits())
