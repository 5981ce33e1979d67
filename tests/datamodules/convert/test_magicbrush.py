"""MagicBrush: sessions and turns from parquet and from the test set's folder, masks in each form, captions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.convert.brush_mask import editable
from datamodules.convert.engine import Options, convert
from datamodules.convert.magicbrush import MagicBrushFolder, MagicBrushTable, magicbrush
from datamodules.convert.source import ConversionError
from datamodules.faults import BadSample
from datamodules.shard_index import ShardIndex
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform
from tests.datamodules.convert.layouts import as_png, picture, write, write_parquet
from tests.datamodules.convert.magicbrush_layout import (
    INSIDE,
    TURNS,
    black_and_white,
    folder_files,
    painted,
    source_pixels,
    table_columns,
    transparent,
)
from tests.datamodules.convert.results import converted, samples

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.mark.parametrize("mask", [transparent(), painted(), black_and_white()])
def test_each_form_of_mask_says_what_is_editable(mask: bytes) -> None:
    assert np.array_equal(np.asarray(editable(mask, as_png(source_pixels()))) > 0, INSIDE)


def test_white_of_the_source_outside_is_not_editable() -> None:
    source = source_pixels()
    source[12:] = 255
    painted = as_png(np.where(INSIDE[..., None], 255, source).astype(np.uint8))
    assert np.array_equal(np.asarray(editable(painted, as_png(source))) > 0, INSIDE)


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (painted()[:100], "image"),
        (b"", "empty"),
        (as_png(np.zeros((16, 16), np.uint8)), "mask"),
        (as_png(source_pixels()), "mask"),
        (as_png(source_pixels()[:8]), "size"),
    ],
)
def test_a_mask_that_says_nothing_is_a_bad_sample(mask: bytes, reason: str) -> None:
    with pytest.raises(BadSample) as caught:
        editable(mask, as_png(source_pixels()))
    assert caught.value.reason == reason


@pytest.fixture(scope="module")
def table(datasets_cache: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("table")
    masks = [painted(), b"no picture", None]
    write_parquet(root / "source" / "data" / "train-00000-of-00001.parquet", table_columns(TURNS, mask_img=masks), 2)
    write_parquet(root / "source" / "data" / "dev-00000-of-00001.parquet", table_columns([("7", 1)]))
    return root / "out", converted(magicbrush(str(root / "source")), root / "out", samples_per_shard=2)


def test_turns_are_called_by_their_session(table: tuple[Path, dict[str, Any]]) -> None:
    found = samples(table[0] / "train")
    assert list(found) == ["139306-1", "139306-2", "242679-1"] and list(samples(table[0] / "val")) == ["7-1"]
    assert found["139306-2"]["metadata"] == {"session": "139306", "turn": 2, "turns": 2}
    assert found["242679-1"]["metadata"]["turns"] == 1 and found["139306-2"]["instruction"] == "turn 2 of 139306"


def test_masks_become_target_masks_and_bad_ones_cost_no_sample(table: tuple[Path, dict[str, Any]]) -> None:
    out, report = table
    found = samples(out / "train")
    assert np.array_equal(np.asarray(found["139306-1"]["target_mask"]) > 0, INSIDE)
    assert "target_mask" not in found["139306-2"] and "target_mask" not in found["242679-1"]
    assert report["splits"]["train"]["kept"] == {"mask": 1} and report["splits"]["train"]["dropped"] == {}


def test_a_turn_that_comes_twice_is_one_line(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", table_columns([("1", 1), ("1", 1)]))
    with pytest.raises(ConversionError, match="split 'train' has turn 1 of session 1 twice; fetch it again"):
        magicbrush(str(tmp_path)).splits()


def test_rows_without_a_session_are_dropped(tmp_path: Path) -> None:
    write_parquet(tmp_path / "source" / "train.parquet", table_columns(TURNS, img_id=["1", None, "2"]))
    report = converted(magicbrush(str(tmp_path / "source")), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"field": 1} and report["splits"]["train"]["samples"] == 2


def test_rows_without_session_or_turn_are_no_repetition(tmp_path: Path) -> None:
    write_parquet(
        tmp_path / "source" / "train.parquet", table_columns(TURNS, img_id=["1", None, None], turn_index=[1, 1, 1])
    )
    report = converted(magicbrush(str(tmp_path / "source")), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"field": 2} and report["splits"]["train"]["samples"] == 1


@pytest.mark.parametrize("name", ["source_img", "target_img", "instruction"])
def test_rows_without_what_an_edit_needs_are_dropped(name: str, tmp_path: Path) -> None:
    table = table_columns(TURNS)
    write_parquet(tmp_path / "source" / "train.parquet", {**table, name: [None, *table[name][1:]]})
    report = converted(magicbrush(str(tmp_path / "source")), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"field": 1} and report["splits"]["train"]["samples"] == 2


def test_a_damaged_column_of_sessions_is_one_line(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "train.parquet", table_columns(TURNS))
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    data = bytearray(path.read_bytes())
    begin = chunk.dictionary_page_offset or chunk.data_page_offset
    data[begin : begin + 30] = b"\xff" * 30
    path.write_bytes(data)
    with pytest.raises(ConversionError, match=r"column 'img_id' cannot be read .*; fetch it again") as caught:
        magicbrush(str(tmp_path)).splits()
    assert "\n" not in str(caught.value)


def test_a_file_that_lacks_a_column_of_the_others_is_one_line(tmp_path: Path) -> None:
    table = table_columns(TURNS)
    write_parquet(tmp_path / "train-0.parquet", table)
    write_parquet(tmp_path / "train-1.parquet", {name: cells for name, cells in table.items() if name != "turn_index"})
    with pytest.raises(ConversionError, match=r"train-1\.parquet: no column 'turn_index', which other files"):
        magicbrush(str(tmp_path)).splits()


def test_another_table_is_one_line(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", {"a": ["b"]})
    with pytest.raises(ConversionError, match="no column 'img_id' in split 'train'; it has a"):
        magicbrush(str(tmp_path)).splits()


@pytest.mark.parametrize("captions", ["descriptions", "captions"])
def test_the_test_sets_folder_gives_sessions_turns_masks_and_captions(captions: str, tmp_path: Path) -> None:
    source = magicbrush(str(write(tmp_path / "source", folder_files(captions))))
    assert isinstance(source, MagicBrushFolder)
    converted(source, tmp_path / "out")
    found = samples(tmp_path / "out" / "test")
    assert list(found) == ["139306-1", "139306-2", "242679-1"]
    second = found["139306-2"]
    assert (second["target_caption"], second["source_caption"]) == ("local after 2", "global after 1")
    metadata = {"session": "139306", "turn": 2, "turns": 2, "global_caption": "global after 2"}
    assert second["metadata"] == metadata
    assert np.array_equal(np.asarray(second["target_mask"]) > 0, INSIDE)
    assert np.array_equal(second["source"], found["139306-1"]["target"])


def test_the_folder_goes_without_captions_and_masks(tmp_path: Path) -> None:
    files = {name: content for name, content in folder_files().items() if "description" not in name}
    del files["images/139306/139306-mask1.png"]
    report = converted(magicbrush(str(write(tmp_path / "source", files))), tmp_path / "out")
    found = samples(tmp_path / "out" / "test")
    assert len(found) == 3 and "target_mask" not in found["139306-1"] and "target_caption" not in found["139306-1"]
    assert report["splits"]["test"]["kept"] == {"mask": 1}


def test_a_session_whose_name_fits_into_no_tar_is_dropped(tmp_path: Path) -> None:
    files = folder_files()
    turns = files["edit_sessions.json"].pop("242679")
    files["edit_sessions.json"] |= {"x" * 120: [{**turn, "input": "a.png", "output": "b.png"} for turn in turns]}
    files |= {f"images/{'x' * 120}/{name}.png": picture(3, form="PNG") for name in ("a", "b")}
    report = converted(magicbrush(str(write(tmp_path / "source", files))), tmp_path / "out")
    assert report["splits"]["test"]["dropped"] == {"key": 1} and report["splits"]["test"]["samples"] == 2


@pytest.mark.parametrize("sessions", [{"1": {}}, {"1": ["x"]}])
def test_sessions_of_another_form_are_one_line(sessions: Any, tmp_path: Path) -> None:
    write(tmp_path, {"edit_sessions.json": sessions})
    with pytest.raises(ConversionError, match=r"edit_sessions\.json: session '1': expected a list of turns"):
        magicbrush(str(tmp_path)).splits()


def test_a_part_is_refused_unless_it_is_called_one(tmp_path: Path) -> None:
    write(tmp_path / "folder", folder_files())
    write_parquet(tmp_path / "table" / "train.parquet", table_columns(TURNS))
    for name, split, total in (("folder", "test", "1,053"), ("table", "train", "8,807")):
        with pytest.raises(
            ConversionError, match=f"split '{split}' of magicbrush has 3 entries, the published one {total}"
        ):
            convert(magicbrush(str(tmp_path / name)), tmp_path / "out", Options())


def test_splits_that_come_from_elsewhere_are_not_missed(tmp_path: Path) -> None:
    source = MagicBrushTable(str(tmp_path))
    source.check_totals({"train": range(8807), "val": range(528)})
    MagicBrushFolder(str(tmp_path)).check_totals({"test": range(1053)})


def test_the_result_streams(table: tuple[Path, dict[str, Any]]) -> None:
    stream = ShardStream(ShardIndex.load(table[0] / "train"), global_batch_size=3, seed=0, transform=ImageTransform(16))
    (batch,) = stream
    assert batch["has_target_mask"].sum() == 1 and batch["has_target"].all()
