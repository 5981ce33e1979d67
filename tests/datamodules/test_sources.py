"""Sources of a configuration: which samples of a folder they choose, and the labels that are kept."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.filters import FilterError
from datamodules.labels import SelectionError
from datamodules.portions import LEFT_OUT
from datamodules.shard_data import ShardData
from datamodules.shard_writer import write_shard
from datamodules.shards import index_shards, write_shards
from datamodules.sources import Source, open_sources
from datamodules.storage import Storage
from datamodules.tar_index import ShardError
from tests.datamodules.make_samples import SHAPES, make_edit, make_image
from tests.datamodules.range_server import answer_500, serving


def _jpeg(image: Image.Image, orientation: int | None = None) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def _chosen(source: Source, **settings: object) -> list[int]:
    mixture = open_sources([source], **settings)  # type: ignore[arg-type]
    labels = mixture.sources[0].labels
    return np.flatnonzero(labels != LEFT_OUT).tolist() if labels is not None else list(range(len(mixture)))


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({}, lambda n: True),
        ({"edit_types": ["add", "recolour"]}, lambda n: n % 3 != 1),
        ({"where": "metadata.number >= 40"}, lambda n: n >= 40),
        ({"where": "number >= 40"}, lambda n: n >= 40),  # fields of the metadata have their own names too
        ({"where": "split == 'val'"}, lambda n: n % 10 == 9),
        (
            {"edit_types": ["remove"], "where": "width > height or number < 4"},
            lambda n: n % 3 == 1 and (n % 2 or n < 4),
        ),
        ({"where": "'sphere 7' in instruction"}, lambda n: n == 7),
        ({"where": "key == '000011'"}, lambda n: n == 11),
    ],
)
def test_a_part_holds_the_samples_that_are_asked_for(folders: Path, part: dict, expected: object) -> None:
    source = Source(str(folders / "edits"), split="train", **part)
    wanted = [number for number in range(60) if expected(number)]  # type: ignore[operator]
    if "width" in part.get("where", ""):  # 48x24 and 25x24 are wide, 24x40 is not
        wanted = [n for n in range(60) if n % 3 == 1 and (SHAPES[n % 4][0] > SHAPES[n % 4][1] or n < 4)]
    assert _chosen(source) == wanted


def test_what_was_found_is_kept_and_not_read_again(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "others", tmp_path / "data")
    source = Source(str(tmp_path / "data"), where="number < 105")
    first = _chosen(source)
    for path in (tmp_path / "data").glob("*.tar"):
        path.write_bytes(b"")
    assert _chosen(source) == first == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "data").glob("labels-*.npy"))) == 1
    assert _chosen(Source(str(tmp_path / "data"), where="number > 105")) == list(range(12))  # unreadable ones are kept


def test_workers_find_the_same(folders: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(folders / "edits/train", tmp_path / name)
    sources = [Source(str(tmp_path / name), where="height > 24 and number % 4 == 2") for name in ("one", "two")]
    one, two = (_chosen(source, workers=workers) for source, workers in zip(sources, (0, 2), strict=True))
    assert one == two == list(range(2, 60, 4))


def test_what_cannot_be_read_is_chosen_so_that_the_stream_counts_it(tmp_path: Path) -> None:
    image = _jpeg(make_image(0, 24))
    files = [
        ("good", {"json": b'{"instruction": "a", "edit_type": "add"}', "source.jpg": image}),
        ("other", {"json": b'{"instruction": "a", "edit_type": "move"}', "source.jpg": image}),
        ("no-json", {"json": b'{"instruction": ', "source.jpg": image}),
        ("a-list", {"json": b"[1]", "source.jpg": image}),
        ("no-image", {"json": b'{"instruction": "a", "edit_type": "add"}', "source.jpg": b"nothing"}),
        ("empty", {"json": b'{"instruction": "a", "edit_type": "add"}', "source.jpg": b""}),
        ("text", {"json": b'{"instruction": "a", "edit_type": "add", "metadata": "{\\"x\\": NaN}"}'}),
    ]
    write_shard(tmp_path, "0.tar", files)
    (tmp_path / "0.tar.incomplete").rename(tmp_path / "0.tar")
    index_shards(tmp_path)
    assert _chosen(Source(str(tmp_path), edit_types=["add"])) == [0, 2, 3, 4, 5, 6]
    assert _chosen(Source(str(tmp_path), where="edit_type == 'add' and width == 24")) == [0, 2, 3, 4, 5]


def test_the_lost_rest_of_a_tar_is_chosen_so_that_the_stream_counts_it(tmp_path: Path) -> None:
    index = write_shards(map(make_edit, range(12)), tmp_path / "data", 12)
    tar = index.tar_path("00000.tar")
    tar.write_bytes(tar.read_bytes()[: index.open_members(0).members(6)[0].offset - 512])  # before the sample's header
    index = index_shards(tmp_path / "data")
    assert len(index) == 7  # six samples, and one that stands for all that is lost
    part = [Source(str(tmp_path / "data"), edit_types=["add"])]
    stream = ShardData(train=part, global_batch_size=3, resolution=16, max_bad_fraction=1.0).train_dataloader()
    assert len(list(stream)) == 1
    assert [reason for reason, _ in stream.fault_counts] == ["truncated"]


def test_shards_of_img2dataset_are_filtered_by_their_columns(tmp_path: Path) -> None:
    files = [
        (f"{n:09d}", {"jpg": _jpeg(make_image(n, 24)), "txt": b"a cat", "json": json.dumps(record).encode()})
        for n, record in enumerate([{"similarity": 0.2}, {"similarity": 0.4}, {"similarity": None}])
    ]
    write_shard(tmp_path, "0.tar", files)
    (tmp_path / "0.tar.incomplete").rename(tmp_path / "0.tar")
    index_shards(tmp_path)
    assert _chosen(Source(str(tmp_path), where="similarity > 0.3 and 'cat' in target_caption and width == 24")) == [1]


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    image = make_image(0, 24).resize((48, 24))
    samples = [{"key": f"{turn}", "source": _jpeg(image, turn), "instruction": "x"} for turn in (1, 3, 6, 8)]
    write_shards(samples, tmp_path / "turned", 4)  # type: ignore[arg-type]
    assert _chosen(Source(str(tmp_path / "turned"), where="width > height")) == [0, 1]


def test_a_size_behind_a_long_header_is_found(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    make_image(0, 24).resize((48, 24)).save(buffer, "JPEG", icc_profile=bytes(200_000))
    write_shards([{"key": "a", "source": buffer.getvalue(), "instruction": "x"}], tmp_path / "long", 4)
    assert _chosen(Source(str(tmp_path / "long"), where="width == 48 and height == 24")) == [0]


def test_shards_behind_a_url_are_filtered_and_the_answer_is_kept_in_the_cache(folders: Path, tmp_path: Path) -> None:
    with serving(folders / "others") as server:
        source = Source(server.url, where="number < 103")
        with pytest.raises(SelectionError, match=r"give storage\.cache_directory, or an index_directory"):
            open_sources([source], Storage(attempts=1))
        storage = Storage(attempts=1, cache_directory=str(tmp_path / "cache"))
        assert _chosen(source, storage=storage, workers=2) == [0, 1, 2]
        assert list((tmp_path / "cache").glob("labels-*.npy"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_storage_that_may_give_it_later_stops_a_choice_in_one_line(
    folders: Path, tmp_path: Path, workers: int
) -> None:
    with serving(folders / "others") as server:
        server.misbehave(answer_500)
        storage = Storage(attempts=1, cache_directory=str(tmp_path / "cache"))
        with pytest.raises(ShardError, match=r"00000\.tar: ClientResponseError 500") as caught:
            _chosen(Source(server.url, where="number < 103"), storage=storage, workers=workers)
    assert "\n" not in str(caught.value)


def test_samples_of_a_member_index_that_the_storage_does_not_have_are_chosen(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "others", tmp_path / "served")
    (tmp_path / "served" / "00001.idx").unlink()
    with serving(tmp_path / "served") as server:
        storage = Storage(attempts=1, cache_directory=str(tmp_path / "cache"))
        assert _chosen(Source(server.url, where="number < 103"), storage=storage) == [0, 1, 2, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("part", "error", "message"),
    [
        ({"where": "editt_type == 'add'"}, SelectionError, "where: no sample has a field 'editt_type'"),
        ({"where": "number > 1000"}, SelectionError, "no sample of 60 is chosen by 'number > 1000'"),
        ({"edit_types": ["paint"]}, SelectionError, "no sample of 60 is chosen by"),
        ({"edit_types": []}, ValueError, "edit_types: expected at least one"),
        ({"where": "number >"}, FilterError, "edits/train: where: expected .* found 'number >'"),
        ({"weight": 0.0}, ValueError, "weight: expected a positive number, found 0.0"),
        ({"weight": float("nan")}, ValueError, "weight: expected a positive number, found nan"),
    ],
)
def test_a_part_that_is_none_is_refused_in_one_line(folders: Path, part: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        open_sources([Source(str(folders / "edits"), split="train", **part)])
    assert "\n" not in str(caught.value) and str(folders) in str(caught.value)


def test_weights_for_some_sources_only_are_refused(folders: Path) -> None:
    sources = [Source(str(folders / "edits/train"), weight=1.0), Source(str(folders / "others"))]
    with pytest.raises(ValueError, match="others: expected a weight, as other sources have one"):
        open_sources(sources)
    with pytest.raises(ValueError, match="expected at least one source of samples"):
        open_sources([])


def test_damaged_labels_are_one_clear_line(folders: Path, tmp_path: Path) -> None:
    shutil.copytree(folders / "others", tmp_path / "data")
    source = Source(str(tmp_path / "data"), where="number < 105")
    _chosen(source)
    (kept,) = (tmp_path / "data").glob("labels-*.npy")
    for content in (b"", kept.read_bytes()[:-5], b"x" * 200):
        kept.write_bytes(content)
        with pytest.raises(SelectionError, match="remove it, it is made again"):
            _chosen(source)
