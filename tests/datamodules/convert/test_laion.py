"""img2dataset's shards: used as they are, filtered by an index, counted in the tar alone."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datamodules.convert.filters import Filters
from datamodules.convert.laion import Laion
from datamodules.convert.source import ConversionError
from datamodules.shard_data import ShardData
from datamodules.shard_index import ShardIndex
from datamodules.shards import index_shards, verify
from tests.datamodules.convert.layouts import write_img2dataset
from tests.datamodules.convert.results import contents, converted, samples

RECORDS: list[dict[str, Any]] = [
    {"caption": "plain", "width": 256, "height": 256, "original_width": 800, "original_height": 600},
    {"caption": "narrow", "width": 256, "height": 256, "original_width": 100, "original_height": 600},
    {"caption": "low", "WIDTH": 800.0, "HEIGHT": 90.0},
    {"caption": "far", "Similarity": 0.1},
    {"caption": "ugly", "AESTHETIC_SCORE": "2.5"},
    {"caption": "unsafe", "punsafe": 0.9},
    {"caption": "marked", "PWATERMARK": 0.9},
    {"caption": "tagged", "NSFW": "nsfw"},
    {"caption": "good", "similarity": 0.4, "aesthetic": 6.0, "punsafe": 0.01, "pwatermark": 0.1, "NSFW": "UNLIKELY"},
    {"caption": "empty", "similarity": None, "punsafe": float("nan")},
]
ALL = Filters(200, 100, 0.3, 5.0, 0.5, 0.5, ("unlikely", "UNSURE"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "laion"
    for shard in (0, 2):  # numbers have gaps
        write_img2dataset(root, shard, RECORDS)
    return root


def _captions(source: Path, out: Path) -> list[str]:
    return sorted(sample["target_caption"] for sample in samples(out / "train", source).values())


def test_shards_are_used_as_they_are(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    report = converted(Laion(str(source)), tmp_path / "out")
    assert contents(source) == before and not list((tmp_path / "out").rglob("*.tar"))
    assert report["splits"]["train"]["samples"] == 20 and report["splits"]["train"]["dropped"] == {}
    plain = index_shards(source, tmp_path / "plain")
    assert contents(tmp_path / "out" / "train") == contents(tmp_path / "plain")
    assert plain.fingerprint == ShardIndex.load(source, tmp_path / "out" / "train").fingerprint


def test_failed_downloads_are_not_counted(tmp_path: Path) -> None:
    source = write_img2dataset(tmp_path / "laion", 0, RECORDS, failed=7)
    assert converted(Laion(str(source)), tmp_path / "out")["splits"]["train"]["samples"] == len(RECORDS)


@pytest.mark.parametrize(
    ("filters", "refused"),
    [
        (Filters(min_width=200), {"width": ["narrow"]}),
        (Filters(min_height=100), {"height": ["low"]}),
        (Filters(min_similarity=0.3), {"similarity": ["far"]}),
        (Filters(min_aesthetic=5), {"aesthetic": ["ugly"]}),
        (Filters(max_punsafe=0.5), {"punsafe": ["unsafe"]}),
        (Filters(max_pwatermark=0.5), {"pwatermark": ["marked"]}),
        (Filters(nsfw=("unlikely",)), {"nsfw": ["tagged"]}),
    ],
)
def test_each_filter_refuses_what_it_should_and_counts_it(
    filters: Filters, refused: dict[str, list[str]], source: Path, tmp_path: Path
) -> None:
    train = converted(Laion(str(source), filters), tmp_path / "out")["splits"]["train"]
    ((name, lost),) = refused.items()
    kept = [record["caption"] for record in RECORDS if record["caption"] not in lost]
    assert _captions(source, tmp_path / "out") == sorted(2 * kept)
    assert train["dropped"] == {f"filter: {name}": 2 * len(lost)}
    assert train["kept"].keys() == {f"unknown: {name}"} and train["samples"] == 2 * len(kept)


def test_without_a_value_a_sample_may_be_dropped_too(source: Path, tmp_path: Path) -> None:
    train = converted(Laion(str(source), Filters(max_punsafe=0.5), "drop"), tmp_path / "out")["splits"]["train"]
    assert _captions(source, tmp_path / "out") == ["good", "good"]
    assert train["dropped"] == {"filter: punsafe": 2, "unknown: punsafe": 16} and train["kept"] == {}


def test_a_filtered_index_says_of_how_many_it_selects_and_verifies(source: Path, tmp_path: Path) -> None:
    converted(Laion(str(source), ALL), tmp_path / "out")
    rows = ShardIndex.load(source, tmp_path / "out" / "train").shards
    assert [(row.count, row.of) for row in rows] == [(3, 10), (3, 10)]
    assert _captions(source, tmp_path / "out") == ["empty", "empty", "good", "good", "plain", "plain"]
    assert verify(source, tmp_path / "out" / "train") == []


def test_metadata_is_read_from_parquet_where_the_tar_has_none(tmp_path: Path) -> None:
    source = tmp_path / "laion"
    source.mkdir()
    with tarfile.open(source / "00000.tar", "w") as tar:
        for key in ("a", "b"):
            info = tarfile.TarInfo(f"{key}.txt")
            info.size = 1
            tar.addfile(info, io.BytesIO(key.encode()))
    pq.write_table(pa.table({"key": ["a", "b"], "PUnsafe": [0.9, 0.1]}), source / "00000.parquet")
    converted(Laion(str(source), Filters(max_punsafe=0.5)), tmp_path / "out")
    assert _captions(source, tmp_path / "out") == ["b"]


def test_a_damaged_parquet_file_costs_no_sample(tmp_path: Path) -> None:
    source = tmp_path / "laion"
    source.mkdir()
    with tarfile.open(source / "00000.tar", "w") as tar:
        info = tarfile.TarInfo("a.txt")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"a"))
    (source / "00000.parquet").write_bytes(b"PAR1 no parquet")
    train = converted(Laion(str(source), Filters(max_punsafe=0.5)), tmp_path / "out")["splits"]["train"]
    assert train["samples"] == 1 and train["kept"] == {"unknown: punsafe": 1}


def test_json_beyond_measure_is_left_to_the_stream(tmp_path: Path) -> None:
    write_img2dataset(tmp_path / "laion", 0, [{"caption": "a", "punsafe": 0.9, "more": "x" * 2**24}])
    train = converted(Laion(str(tmp_path / "laion"), Filters(max_punsafe=0.5)), tmp_path / "out")["splits"]["train"]
    assert train["samples"] == 1 and train["kept"] == {"unknown: punsafe": 1}


def test_the_room_for_an_index_goes_by_the_number_of_samples(source: Path, tmp_path: Path) -> None:
    """The pictures of these shards are tiny; a share of the tars' bytes would be far from right."""
    laion = Laion(str(source))
    expected = laion.estimate(laion.splits()["train"])
    converted(laion, tmp_path / "out")
    needed = sum(path.stat().st_size for path in (tmp_path / "out" / "train").glob("*.idx"))
    assert 0.7 * expected < needed < expected


def test_damage_stays_in_the_index_so_that_it_counts(source: Path, tmp_path: Path) -> None:
    tar = source / "00000.tar"
    os.truncate(tar, tar.stat().st_size // 2)
    train = converted(Laion(str(source), Filters(min_width=200)), tmp_path / "out")["splits"]["train"]
    assert train["kept"]["unfinished"] == 1
    data = ShardData(train=str(source), index_directory=str(tmp_path / "out"), global_batch_size=1, max_bad_fraction=1)
    stream = data.train_dataloader()
    assert len(list(stream)) == train["samples"] and len(stream.fault_counts) > 0


def test_what_is_no_tar_is_dropped_and_named(source: Path, tmp_path: Path) -> None:
    (source / "00001.tar").write_bytes(b"")
    (source / "00003.tar").write_bytes(b"no tar" * 1000)
    report = converted(Laion(str(source)), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"shard": 2}
    assert [finding["item"] for finding in report["findings"] if finding["dropped"]] == ["00001.tar", "00003.tar"]
    assert len(samples(tmp_path / "out" / "train", _without(source, "00001.tar", "00003.tar"))) == 20


def _without(source: Path, *names: str) -> Path:
    for name in names:
        (source / name).unlink()
    return source


def test_a_shard_without_statistics_is_used_but_called_unfinished(source: Path, tmp_path: Path) -> None:
    (source / "00000_stats.json").unlink()
    (source / "00002_stats.json").write_text('{"successes": 11}')
    report = converted(Laion(str(source)), tmp_path / "out")
    assert report["splits"]["train"]["kept"] == {"unfinished": 2} and report["splits"]["train"]["samples"] == 20
    details = [finding["detail"] for finding in report["findings"]]
    assert details == ["00000_stats.json is missing", "10 samples, 00002_stats.json says 11"]


def test_a_folder_without_tars_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"expected \.tar files as img2dataset writes them, found none"):
        converted(Laion(str(tmp_path)), tmp_path / "out")


def test_the_result_streams_from_where_the_shards_are(source: Path, tmp_path: Path) -> None:
    converted(Laion(str(source), ALL), tmp_path / "out")
    data = ShardData(
        train=str(source), index_directory=str(tmp_path / "out"), global_batch_size=6, resolution=16, num_workers=0
    )
    (batch,) = data.train_dataloader()
    assert sorted(batch["target_caption"]) == ["empty", "empty", "good", "good", "plain", "plain"]
    assert batch["has_target"].all() and not batch["has_source"].any()
    assert json.dumps(batch["metadata"][0])
