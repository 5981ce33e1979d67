"""Tables of any kind through a map of columns."""

from __future__ import annotations

import io
import json
import os
import pickle
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.convert.source import ConversionError
from datamodules.convert.table_source import HuggingFace, split_name
from datamodules.convert.tables import Rows, column
from datamodules.shard_index import ShardIndex
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform
from tests.datamodules.convert.layouts import picture, write, write_parquet, zipped
from tests.datamodules.convert.results import contents, converted, samples
from tests.datamodules.range_server import Fault, answer_500, close_early, serving

pytestmark = pytest.mark.usefixtures("datasets_cache")
COLUMNS = {"source": "before", "target": "after", "instruction": "request"}


def _table(rows: int) -> dict[str, list[Any]]:
    return {
        "before": [picture(2 * n) for n in range(rows)],
        "after": [picture(2 * n + 1) for n in range(rows)],
        "request": [f"request {n}" for n in range(rows)],
        "score": [n / 2 for n in range(rows)],
    }


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "source" / "data" / "train-00000-of-00002.parquet", _table(10))
    write_parquet(tmp_path / "source" / "data" / "train-00001-of-00002.parquet", _table(3))
    write_parquet(tmp_path / "source" / "data" / "validation-00000-of-00001.parquet", _table(2))
    return tmp_path / "source"


def test_a_map_of_columns_makes_samples_of_any_dataset(parquet: Path, tmp_path: Path) -> None:
    converted(HuggingFace(str(parquet), None, COLUMNS, ["score"]), tmp_path / "out", samples_per_shard=5)
    train, val = (samples(tmp_path / "out" / split) for split in ("train", "val"))
    assert list(train) == [f"train-{number:07d}" for number in range(13)] and list(val) == [
        "val-0000000",
        "val-0000001",
    ]
    assert train["train-0000011"]["instruction"] == "request 1" and train["train-0000011"]["metadata"] == {"score": 0.5}
    assert _table(2)["after"][1] in (tmp_path / "out" / "val" / "00000.tar").read_bytes()


def test_any_text_of_the_schema_can_be_a_column_and_a_placeholder_of_nothing_is_counted(tmp_path: Path) -> None:
    table = {"request": ["make it red", "like <image:0>"], "short": ["make the ball red", "copy"]}
    write_parquet(tmp_path / "source" / "train-00000-of-00001.parquet", table)
    columns = {"instruction": "request", "expressive": "short"}
    report = converted(HuggingFace(str(tmp_path / "source"), None, columns), tmp_path / "out")
    (sample,) = samples(tmp_path / "out" / "train").values()
    assert (sample["instruction"], sample["expressive"]) == ("make it red", "make the ball red")
    assert report["splits"]["train"]["dropped"] == {"attachment": 1}


def test_tables_stream_after_conversion(parquet: Path, tmp_path: Path) -> None:
    converted(HuggingFace(str(parquet), None, COLUMNS), tmp_path / "out")
    index = ShardIndex.load(tmp_path / "out" / "train")
    (batch,) = ShardStream(index, global_batch_size=13, seed=0, transform=ImageTransform(16))
    assert sorted(batch["key"]) == [f"train-{number:07d}" for number in range(13)]


def test_rows_are_read_from_any_place_in_any_file(parquet: Path) -> None:
    rows: Rows = HuggingFace(str(parquet), None, COLUMNS).splits()["train"]
    assert len(rows) == 13 and len(rows[9:12]) == 3 and len(rows[5:9][1:2]) == 1
    assert [(n, row["request"]) for n, row in rows[9:12].read()] == [
        (9, "request 9"),
        (10, "request 0"),
        (11, "request 1"),
    ]


def test_rows_behind_a_url_are_read_where_they_are(parquet: Path) -> None:
    """fsspec's file system in memory stands for the hub's: the same interface, files that are on no disk."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/train.parquet", (parquet / "data" / "train-00000-of-00002.parquet").read_bytes())
    rows = Rows("train", ("set", None, "train"), ("memory://set/train.parquet",), (10,), 0, 3, 6)
    assert [row["request"] for _, row in rows.read()] == ["request 3", "request 4", "request 5"]
    assert column(rows, "score") == [1.5, 2.0, 2.5]


def test_a_url_that_cannot_be_read_stops_the_conversion_instead_of_losing_rows(parquet: Path) -> None:
    data = bytearray((parquet / "data" / "train-00000-of-00002.parquet").read_bytes())
    data[4:200] = bytes(196)
    fsspec.filesystem("memory").pipe("/set/broken.parquet", bytes(data))
    rows = Rows("train", ("set", None, "train"), ("memory://set/broken.parquet",), (10,), 0, 0, 10)
    with pytest.raises(ConversionError, match="finished shards are kept: run the same command again"):
        list(rows.read())


@pytest.mark.parametrize("fault", [answer_500, close_early])
@pytest.mark.parametrize("opened_before", [False, True])
def test_a_server_that_fails_is_one_line(fault: Fault, opened_before: bool, tmp_path: Path) -> None:
    cells = [os.urandom(20_000) for _ in range(500)]
    write_parquet(tmp_path / "train.parquet", {"picture": cells}, rows_in_group=100)
    with serving(tmp_path) as server:
        rows = Rows("train", (server.url, None, "train"), (f"{server.url}/train.parquet",), (500,), 0, 0, 500)
        reading = rows.read()
        assert not opened_before or next(reading)[0] == 0
        server.misbehave(fault, r"\.parquet$")
        with pytest.raises(ConversionError, match=r"/train\.parquet: cannot be read") as caught:
            list(reading)
    assert "\n" not in str(caught.value)


def test_csv_with_names_of_files_is_read_through_datasets(tmp_path: Path) -> None:
    lines = ["before,after,request", "a.jpg,b.jpg,first", "a.jpg,../outside.jpg,second", "a.jpg,c.jpg,third"]
    write(tmp_path, {"outside.jpg": picture(0)})
    source = write(tmp_path / "csv", {"train.csv": "\n".join(lines), "a.jpg": picture(1), "b.jpg": picture(2)})
    found = tmp_path / "out"
    report = converted(HuggingFace(str(source), None, COLUMNS), found)
    assert [s["instruction"] for s in samples(found / "train").values()] == ["first"]
    assert report["splits"]["train"]["dropped"] == {"missing": 1, "outside": 1}


def test_a_folder_of_images_is_read_through_datasets(tmp_path: Path) -> None:
    notes = [{"file_name": "a.jpg", "text": "one"}, {"file_name": "b.jpg", "text": "two"}]
    lines = "".join(json.dumps(note) + "\n" for note in notes)
    source = write(tmp_path / "images", {"a.jpg": picture(1), "b.jpg": picture(2), "metadata.jsonl": lines})
    converted(HuggingFace(str(source), None, {"target": "image", "target_caption": "text"}), tmp_path / "out")
    assert [s["target_caption"] for s in samples(tmp_path / "out" / "train").values()] == ["one", "two"]
    assert picture(2) in (tmp_path / "out" / "train" / "00000.tar").read_bytes()


def test_a_packed_folder_of_images_is_read_through_datasets(tmp_path: Path) -> None:
    notes = "file_name,text\na.jpg,one\nb.jpg,two\n"
    files = {"a.jpg": picture(1), "b.jpg": picture(2), "metadata.csv": notes}
    source = write(tmp_path / "packed", {"train.zip": zipped(files)})
    converted(HuggingFace(str(source), None, {"target": "image", "target_caption": "text"}), tmp_path / "out")
    assert [s["target_caption"] for s in samples(tmp_path / "out" / "train").values()] == ["one", "two"]
    assert picture(2) in (tmp_path / "out" / "train" / "00000.tar").read_bytes()


def test_a_table_cannot_name_a_packed_file_elsewhere(tmp_path: Path) -> None:
    write(tmp_path, {"other.zip": zipped({"a.jpg": picture(1)})})
    name = f"zip://a.jpg::{tmp_path / 'other.zip'}"
    source = write(tmp_path / "csv", {"train.csv": f"before,after,request\n{name},{name},x\n"})
    with pytest.raises(ConversionError, match="no sample was kept of 1 entries, dropped were: missing 1"):
        converted(HuggingFace(str(source), None, COLUMNS), tmp_path / "out")


def test_a_text_that_is_no_utf8_costs_its_row_only(tmp_path: Path) -> None:
    texts = pa.array([b"one", b"caf\xe9", b"three"], pa.binary()).view(pa.string())
    (tmp_path / "source").mkdir()
    pq.write_table(pa.table({"text": texts}), tmp_path / "source" / "train.parquet")
    report = converted(HuggingFace(str(tmp_path / "source"), None, {"instruction": "text"}), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"text": 1}
    assert [s["instruction"] for s in samples(tmp_path / "out" / "train").values()] == ["one", "three"]


def test_a_few_rows_of_a_large_row_group_are_read_without_the_rest_of_it(tmp_path: Path) -> None:
    cells = [os.urandom(500) for _ in range(20_000)]
    path = write_parquet(tmp_path / "train.parquet", {"picture": cells}, rows_in_group=len(cells))
    rows = Rows("train", (str(tmp_path), None, "train"), (str(path),), (len(cells),), 0, 10, 20)
    before = _bytes_read()
    assert [row["picture"]["bytes"] for _, row in rows.read()] == cells[10:20]
    assert _bytes_read() - before < path.stat().st_size / 2


def _bytes_read() -> int:
    """By this process from files, since it began."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.mark.parametrize("suffix", ["pkl", "pyd", "pth", "npy", "npz"])
def test_a_pickle_in_a_tar_is_never_executed(suffix: str, tmp_path: Path) -> None:
    members = {f"a.{suffix}": pickle.dumps(Executed(tmp_path / "proof"), protocol=2), "a.txt": b"text"}
    source = write(tmp_path / "source", {"train.tar": _tar(members)})
    try:
        converted(HuggingFace(str(source), None, {"instruction": "txt"}), tmp_path / "out")
    except ConversionError as error:
        assert "\n" not in str(error) and "`datasets` cannot read its splits" in str(error)
    else:
        assert [s["instruction"] for s in samples(tmp_path / "out" / "train").values()] == ["text"]
    assert not (tmp_path / "proof").exists()


class Executed:
    """Unpickling it makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


def _tar(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def test_cells_of_another_type_cost_their_row_only(tmp_path: Path) -> None:
    table = {**_table(3), "request": [1, 2, 3]}
    write_parquet(tmp_path / "source" / "train.parquet", table)
    wrong = (
        r"out: no sample was kept of 3 entries, dropped were: field 3 \(the first, train-0000000: column 'request': "
    )
    for _ in range(2):  # the same command again says the same
        with pytest.raises(ConversionError, match=wrong + "expected text, found int"):
            converted(HuggingFace(str(tmp_path / "source"), None, COLUMNS), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "conversion.json").read_text())["splits"]["train"]["dropped"] == {"field": 3}


def test_numbers_that_are_none_are_empty_cells(tmp_path: Path) -> None:
    nan = float("nan")
    table = {**_table(2), "request": [nan, nan], "score": [nan, 0.5], "points": [[0.5, nan], [1.0, 2.0]]}
    write_parquet(tmp_path / "source" / "train.parquet", table)
    source = HuggingFace(str(tmp_path / "source"), None, COLUMNS, ["score", "points"])
    converted(source, tmp_path / "out")
    found = list(samples(tmp_path / "out" / "train").values())
    assert not any(sample.get("instruction") for sample in found)
    assert [s["metadata"] for s in found] == [{"points": [0.5, None]}, {"score": 0.5, "points": [1.0, 2.0]}]


@pytest.mark.parametrize("kind", ["parquet", "csv", "imagefolder"])
def test_brackets_in_a_path_are_no_pattern(kind: str, tmp_path: Path) -> None:
    root, columns = tmp_path / "set [v2] ?*" / "data", COLUMNS
    if kind == "parquet":
        write_parquet(root / "train-00000-of-00001.parquet", _table(2))
    elif kind == "csv":
        write(
            root,
            {"a [1].jpg": picture(1), "train.csv": "before,after,request\n" + "data/a [1].jpg,data/a [1].jpg,x\n" * 2},
        )
    else:
        write(root / "train", {"a [1].jpg": picture(1), "b.jpg": picture(2)})
        columns = {"target": "image"}
    (tmp_path / "set 2").mkdir()
    converted(HuggingFace(str(root.parent), None, columns), tmp_path / "out")
    found = samples(tmp_path / "out" / "train")
    assert len(found) == 2 and all("target" in sample for sample in found.values())


@pytest.mark.parametrize(
    ("columns", "keep", "words"),
    [
        ({}, [], "--map: expected field=column pairs"),
        ({"picture": "before"}, [], "--map picture=...: no field of a sample; expected one of source, target"),
        ({"source": "first"}, [], "no column 'first'; it has after, before, request, score"),
        (COLUMNS, ["points"], "no column 'points'"),
    ],
)
def test_a_map_that_does_not_fit_is_one_line(columns: dict, keep: list[str], words: str, parquet: Path) -> None:
    with pytest.raises(ConversionError, match=words):
        HuggingFace(str(parquet), None, columns, keep).splits()


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"train.exe": "nothing"}, "`datasets` finds no dataset there"),
        ({"train.wav": b"RIFF"}, "files of kind 'audiofolder' are not read"),
        ({"train.pkl": b"\x80\x04"}, "`datasets` finds no dataset there"),
        ({"state.json": "{}", "train.arrow": b""}, "written by save_to_disk"),
        ({"train.parquet": b"PAR1 no parquet PAR1"}, "cannot be read as parquet"),
        ({"train.jsonl": '{"a": 1}\n{"a": '}, "`datasets` cannot read split 'train'"),
    ],
)
def test_what_is_no_table_is_one_line(files: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=words) as caught:
        HuggingFace(str(write(tmp_path / "source", files)), None, COLUMNS).splits()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "ours"), [("validation", "val"), ("dev", "val"), ("train", "train"), ("a.b/c", "a_b_c")]
)
def test_splits_get_names_of_folders(name: str, ours: str) -> None:
    assert split_name(name) == ours


def test_the_report_is_the_same_each_time(parquet: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        converted(HuggingFace(str(parquet), None, COLUMNS), tmp_path / name)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert json.loads((tmp_path / "a" / "conversion.json").read_bytes())["converter"] == "hf"
