"""MagicBrush by sessions: what a session takes of its turns, from both layouts, and what it is dropped for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules.convert.engine import Options, convert
from datamodules.convert.magicbrush_sessions import FolderSessions, TableSessions, magicbrush_sessions
from datamodules.convert.source import ConversionError
from tests.datamodules.convert.layouts import as_png, picture, write, write_parquet
from tests.datamodules.convert.magicbrush_layout import TURNS, folder_files, source_pixels, table_columns
from tests.datamodules.convert.results import contents, converted, samples

pytestmark = pytest.mark.usefixtures("datasets_cache")
MIXED = [("b", 2), ("a", 1), ("b", 1), ("c", 1), ("a", 2), ("a", 3)]
"""Turns of three sessions in no order."""


def pixels(number: int) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture(number, form="PNG"))))


def dropped(report: dict[str, Any], split: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """What was dropped by reason, and which items with which detail."""
    return report["splits"][split]["dropped"], [(found["item"], found["detail"]) for found in report["findings"]]


def test_a_session_of_the_test_set_leads_from_its_first_picture_to_its_last(tmp_path: Path) -> None:
    source = magicbrush_sessions(str(write(tmp_path / "source", folder_files())))
    assert isinstance(source, FolderSessions)
    converted(source, tmp_path / "out")
    found = samples(tmp_path / "out" / "test")
    assert list(found) == ["139306", "242679"]
    first = found["139306"]
    assert np.array_equal(first["source"], source_pixels()) and np.array_equal(first["target"], pixels(2))
    assert first["instruction"] == "turn 1 of 139306; then turn 2 of 139306"
    assert (first["source_caption"], first["target_caption"]) == ("global before", "local after 2")
    instructions = ["turn 1 of 139306", "turn 2 of 139306"]
    session = {"session": "139306", "turns": 2, "turn_instructions": instructions, "global_caption": "global after 2"}
    assert first["metadata"] == session
    assert "target_mask" not in first
    assert found["242679"]["instruction"] == "turn 1 of 242679" and found["242679"]["metadata"]["turns"] == 1


def test_full_stops_end_no_instruction_within_others_and_captions_may_lack(tmp_path: Path) -> None:
    files = {name: content for name, content in folder_files().items() if "description" not in name}
    for turn in files["edit_sessions.json"]["139306"]:
        turn["instruction"] = "Make it so. "
    converted(magicbrush_sessions(str(write(tmp_path / "source", files))), tmp_path / "out")
    found = samples(tmp_path / "out" / "test")["139306"]
    assert found["instruction"] == "Make it so; then Make it so" and "target_caption" not in found
    assert found["metadata"]["turn_instructions"] == ["Make it so. "] * 2


def test_rows_of_a_table_find_their_sessions_in_any_order(tmp_path: Path) -> None:
    sources = [as_png(np.full((16, 16, 3), number, np.uint8)) for number in range(6)]
    targets = [as_png(np.full((16, 16, 3), 100 + number, np.uint8)) for number in range(6)]
    columns = table_columns(MIXED, source_img=sources, target_img=targets)
    write_parquet(tmp_path / "source" / "train.parquet", columns, 2)
    source = magicbrush_sessions(str(tmp_path / "source"))
    assert isinstance(source, TableSessions)
    for size in (1, 2, 3):
        converted(source, tmp_path / str(size), samples_per_shard=size)
    found = samples(tmp_path / "2" / "train")
    assert found == samples(tmp_path / "1" / "train") == samples(tmp_path / "3" / "train")
    ends = {
        key: tuple(np.unique(sample[name]).item() for name in ("source", "target")) for key, sample in found.items()
    }
    assert ends == {"b": (2, 100), "a": (1, 105), "c": (3, 103)}
    assert found["a"]["metadata"]["turn_instructions"] == ["turn 1 of a", "turn 2 of a", "turn 3 of a"]


def test_workers_change_nothing(tmp_path: Path) -> None:
    write_parquet(tmp_path / "source" / "train.parquet", table_columns(MIXED), 2)
    for workers in (1, 2):
        source = magicbrush_sessions(str(tmp_path / "source"))
        converted(source, tmp_path / str(workers), samples_per_shard=2, workers=workers)
    assert contents(tmp_path / "1") == contents(tmp_path / "2")


@pytest.mark.parametrize("turn", ["139306-input", "139306-output1", "139306-output2"])
def test_a_session_of_the_test_set_without_one_of_its_pictures_is_dropped(turn: str, tmp_path: Path) -> None:
    files = folder_files()
    del files[f"images/139306/{turn}.png"]
    report = converted(magicbrush_sessions(str(write(tmp_path / "source", files))), tmp_path / "out")
    reasons, [(item, detail)] = dropped(report, "test")
    assert reasons == {"missing": 1} and item == "139306" and f"{turn}.png" in detail
    assert list(samples(tmp_path / "out" / "test")) == ["242679"]


@pytest.mark.parametrize(
    ("column", "cell", "reason", "detail"),
    [
        ("turn_index", 3, "turns", "expected the turns 1 to 3, found 1, 3"),
        ("instruction", " ", "field", "turn 2: no instruction"),
        ("target_img", None, "field", "turn 2: no target"),
        ("turn_index", None, "field", "train-0000001: column 'turn_index': expected text or a number, found None"),
    ],
)
def test_a_session_of_a_table_with_a_turn_that_is_not_whole_is_dropped(
    column: str, cell: Any, reason: str, detail: str, tmp_path: Path
) -> None:
    columns = table_columns(TURNS)
    columns[column][1] = cell
    write_parquet(tmp_path / "source" / "train.parquet", columns)
    report = converted(magicbrush_sessions(str(tmp_path / "source")), tmp_path / "out")
    assert dropped(report, "train") == ({reason: 1}, [("139306", detail)])
    assert list(samples(tmp_path / "out" / "train")) == ["242679"]


def test_a_part_is_refused_unless_it_is_called_one(tmp_path: Path) -> None:
    source = magicbrush_sessions(str(write(tmp_path / "source", folder_files())))
    message = "split 'test' of magicbrush_sessions has 2 sessions, the published one 535"
    with pytest.raises(ConversionError, match=message):
        convert(source, tmp_path / "out", Options())
    TableSessions(str(tmp_path)).check_totals({"train": range(4512), "val": range(266)})
