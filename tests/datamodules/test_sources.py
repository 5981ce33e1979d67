"""Sources of a configuration: parts of folders, their labels, and the LightningDataModule over them."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.buckets import BucketError, Buckets, nearest, square
from datamodules.filters import FilterError
from datamodules.labels import SelectionError
from datamodules.parts import LEFT_OUT
from datamodules.schema import Sample
from datamodules.shard_data import ShardData
from datamodules.shards import index_shards, write_shard, write_shards
from datamodules.sources import Source, open_sources
from datamodules.storage import Storage
from datamodules.tar_index import ShardError
from tests.datamodules.make_samples import make_image
from tests.datamodules.range_server import answer_500, serving

TYPES = ("add", "remove", "recolour")
SHAPES = ((24, 24), (48, 24), (24, 40), (25, 24))


def _jpeg(image: Image.Image, orientation: int | None = None) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def _sample(number: int) -> Sample:
    image = make_image(number, 8).resize(SHAPES[number % 4])
    return {
        "key": f"{number:06d}",
        "source": image,
        "target": image,
        "instruction": f"make number {number} red",
        "edit_type": TYPES[number % 3],
        "metadata": {"number": number, "split": "val" if number % 10 == 9 else "train"},
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_shards(map(_sample, range(60)), folder / "edits" / "train", 8)
    write_shards(map(_sample, range(100, 112)), folder / "others", 5)
    return folder


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
        ({"where": "'number 7' in instruction"}, lambda n: n == 7),
        ({"where": "key == '000011'"}, lambda n: n == 11),
    ],
)
def test_a_part_holds_the_samples_that_are_asked_for(folder: Path, part: dict, expected: object) -> None:
    source = Source(str(folder / "edits"), split="train", **part)
    wanted = [number for number in range(60) if expected(number)]  # type: ignore[operator]
    if "width" in part.get("where", ""):  # 48x24 and 25x24 are wide, 24x40 is not
        wanted = [n for n in range(60) if n % 3 == 1 and (SHAPES[n % 4][0] > SHAPES[n % 4][1] or n < 4)]
    assert _chosen(source) == wanted


def test_a_part_is_streamed_and_nothing_else(folder: Path) -> None:
    data = ShardData(
        train=[Source(str(folder / "edits/train"), edit_types=["add"])], global_batch_size=5, resolution=16
    )
    batches = list(data.train_dataloader())
    assert {kind for batch in batches for kind in batch["edit_type"]} == {"add"}
    assert len({key for batch in batches for key in batch["key"]}) == 20


def test_what_was_found_is_kept_and_not_read_again(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "others", tmp_path / "data")
    source = Source(str(tmp_path / "data"), where="number < 105")
    first = _chosen(source)
    for path in (tmp_path / "data").glob("*.tar"):
        path.write_bytes(b"")
    assert _chosen(source) == first == [0, 1, 2, 3, 4]
    assert len(list((tmp_path / "data").glob("labels-*.npy"))) == 1
    assert _chosen(Source(str(tmp_path / "data"), where="number > 105")) == list(range(12))  # unreadable ones are kept


def test_workers_find_the_same(folder: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(folder / "edits/train", tmp_path / name)
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
    index = write_shards(map(_sample, range(12)), tmp_path / "data", 12)
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


def test_shards_behind_a_url_are_filtered_and_the_answer_is_kept_in_the_cache(folder: Path, tmp_path: Path) -> None:
    with serving(folder / "others") as server:
        source = Source(server.url, where="number < 103")
        with pytest.raises(SelectionError, match=r"give storage\.cache_directory, or an index_directory"):
            open_sources([source], Storage(attempts=1))
        storage = Storage(attempts=1, cache_directory=str(tmp_path / "cache"))
        assert _chosen(source, storage=storage, workers=2) == [0, 1, 2]
        assert list((tmp_path / "cache").glob("labels-*.npy"))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_storage_that_may_give_it_later_stops_a_choice_in_one_line(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    with serving(folder / "others") as server:
        server.misbehave(answer_500)
        storage = Storage(attempts=1, cache_directory=str(tmp_path / "cache"))
        with pytest.raises(ShardError, match=r"00000\.tar: ClientResponseError 500") as caught:
            _chosen(Source(server.url, where="number < 103"), storage=storage, workers=workers)
    assert "\n" not in str(caught.value)


def test_samples_of_a_member_index_that_the_storage_does_not_have_are_chosen(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "others", tmp_path / "served")
    (tmp_path / "served" / "00001.idx").unlink()
    with serving(tmp_path / "served") as server:
        storage = Storage(attempts=1, cache_directory=str(tmp_path / "cache"))
        assert _chosen(Source(server.url, where="number < 103"), storage=storage) == [0, 1, 2, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, [1, 0]), (7, [6, 1]), (18, [15, 3]), (72, [60, 12]), (99, [60, 12])]
)
def test_a_limit_is_shared_by_the_sources_as_their_sizes_are(folder: Path, limit: int, expected: list[int]) -> None:
    sources = [Source(str(folder / "edits/train")), Source(str(folder / "others"))]
    data = ShardData(val=sources, limit_val=limit, eval_batch_size=4, resolution=16)
    keys = [*chain(*(batch["key"] for batch in data.val_dataloader()))]
    first, second = expected
    assert keys == [f"{n:06d}" for n in (*range(first), *range(100, 100 + second))]


def test_a_limit_counts_chosen_samples_alone(folder: Path) -> None:
    sources = [Source(str(folder / "edits/train"), edit_types=["remove"]), Source(str(folder / "others"))]
    data = ShardData(test=sources, limit_test=8, eval_batch_size=4, resolution=16)
    assert [*chain(*(batch["key"] for batch in data.test_dataloader()))] == [
        *(f"{n:06d}" for n in (1, 4, 7, 10, 13)),
        *(f"{n:06d}" for n in (100, 101, 102)),
    ]


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
def test_a_part_that_is_none_is_refused_in_one_line(folder: Path, part: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        open_sources([Source(str(folder / "edits"), split="train", **part)])
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_weights_for_some_sources_only_are_refused(folder: Path) -> None:
    sources = [Source(str(folder / "edits/train"), weight=1.0), Source(str(folder / "others"))]
    with pytest.raises(ValueError, match="others: expected a weight, as other sources have one"):
        open_sources(sources)
    with pytest.raises(ValueError, match="expected at least one source of samples"):
        open_sources([])


def test_damaged_labels_are_one_clear_line(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "others", tmp_path / "data")
    source = Source(str(tmp_path / "data"), where="number < 105")
    _chosen(source)
    (kept,) = (tmp_path / "data").glob("labels-*.npy")
    for content in (b"", kept.read_bytes()[:-5], b"x" * 200):
        kept.write_bytes(content)
        with pytest.raises(SelectionError, match="remove it, it is made again"):
            _chosen(source)


def test_sizes_of_buckets_have_about_one_area_and_the_square_among_them() -> None:
    sizes = Buckets().sizes(512)
    assert sizes == ((640, 384), (576, 448), (512, 512), (448, 576), (384, 640))
    assert sizes[square(sizes)] == (512, 512)
    assert all(0.75 * 512**2 < high * wide <= 512**2 and high % 64 == wide % 64 == 0 for high, wide in sizes)
    assert [nearest(sizes, *shape) for shape in ((512, 512), (1920, 1080), (1080, 1920), (640, 480))] == [2, 4, 0, 3]


@pytest.mark.parametrize(
    ("settings", "resolution", "message"),
    [
        ({"step": 0}, 64, "expected step >= 1 and 1 <= max_ratio <= 16, found step 0"),
        ({"max_ratio": 0.5}, 64, "found step 64, max_ratio 0.5"),
        ({"step": 48}, 64, "buckets.step: expected a divisor of resolution 64, found 48"),
        ({"step": 1, "max_ratio": 16}, 2048, "expected at most 200 sizes"),
    ],
)
def test_buckets_that_make_no_sense_are_refused(settings: dict, resolution: int, message: str) -> None:
    with pytest.raises(BucketError, match=message):
        Buckets(**settings).sizes(resolution)


@pytest.fixture
def mixed(folder: Path) -> ShardData:
    sources = [
        Source(str(folder / "edits"), split="train", weight=3, where="number >= 10"),
        Source(str(folder / "others"), weight=1, edit_types=["add", "remove"]),
    ]
    val = [Source(str(folder / "edits/train"), where="number < 10", weight=5), Source(str(folder / "others"), weight=1)]
    return ShardData(
        train=sources,
        val=val,
        global_batch_size=4,
        eval_batch_size=4,
        resolution=16,
        buckets=Buckets(4, 2.0),
        flip=True,
    )


def test_a_mixture_with_buckets_trains_on_several_shapes_and_validates_on_the_square(mixed: ShardData) -> None:
    mixed.prepare_data()
    mixed.setup("fit")
    stream = mixed.train_dataloader()
    batches = [batch for _ in range(3) for batch in stream]
    shapes = {tuple(batch["source"].shape[2:]) for batch in batches}
    assert shapes == {(16, 16), (12, 20), (20, 12)}
    keys = Counter(key[:4] for batch in batches for key in batch["key"])
    assert abs(keys["0001"] / keys.total() - 0.25) < 0.03
    assert min(key for batch in batches for key in batch["key"]) == "000010"
    validated = [*chain(*(batch["key"] for batch in mixed.val_dataloader()))]
    assert validated == [f"{n:06d}" for n in (*range(10), *range(100, 112))]
    assert {tuple(batch["target"].shape[2:]) for batch in mixed.val_dataloader()} == {(16, 16)}


def test_the_position_of_a_mixture_travels_in_checkpoints(folder: Path, mixed: ShardData) -> None:
    whole = [batch["key"] for batch, _ in zip(mixed.train_dataloader(), range(9), strict=False)]
    first, second = (
        ShardData(train=mixed.folders["train"], global_batch_size=4, resolution=16, buckets=Buckets(4, 2.0))
        for _ in "ab"
    )
    begun = [batch["key"] for batch, _ in zip(first.train_dataloader(), range(5), strict=False)]
    second.load_state_dict(first.state_dict())
    assert begun == whole[:5]
    rest = [batch["key"] for batch, _ in zip(second.train_dataloader(), range(3), strict=False)]
    assert rest == whole[6:9]  # `zip` took one more batch from the first stream before it stopped


def test_features_of_a_mixture_are_refused(folder: Path) -> None:
    data = ShardData(train=[Source(str(folder / "others"), weight=1)], features=str(folder), global_batch_size=2)
    with pytest.raises(ValueError, match=r"data\.init_args\.features: expected one whole folder"):
        data.train_dataloader()


def test_a_list_that_was_not_understood_is_named(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"data\.init_args\.train: expected a folder of shards, found \[\{pth: x\}\]"):
        ShardData(train="[{pth: x}]").setup("fit")
