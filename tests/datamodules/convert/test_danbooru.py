"""Danbooru: both years' metadata, the subset, what is left out and why, and a kill in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from datamodules.convert.__main__ import _parser, main
from datamodules.convert.converters import CONVERTERS
from datamodules.convert.danbooru import Danbooru
from datamodules.convert.post_filters import PostFilters
from datamodules.convert.posts import Post
from datamodules.convert.source import ConversionError
from datamodules.shard_data import ShardData
from tests import warm
from tests.datamodules.convert.convert_program import command_of, kill_after
from tests.datamodules.convert.danbooru_layout import TAGS, Year, line, picture_path, post, write_danbooru
from tests.datamodules.convert.layouts import picture, write
from tests.datamodules.convert.results import contents, converted, samples

YEARS: tuple[Year, ...] = (2017, 2021)
NUMBERS = (1000, 2000, 1001, 2001, 1002)
"""Ids in the order of the subset."""


def source(root: Path, *changed: dict[str, Any], year: Year = 2017, size: int = 16) -> Path:
    """The posts `NUMBERS`, not in their order, and these."""
    return write_danbooru(root, [*map(post, NUMBERS[::-1]), *changed], year, size)


def convert(root: Path, out: Path, **settings: Any) -> dict[str, Any]:
    """The part of the report that is of training, all of one split unless `val` is given."""
    return converted(Danbooru(str(root), **{"val": 0.0, **settings}), out)["splits"]["train"]


def ids(out: Path, split: str = "train") -> list[int]:
    return [sample["metadata"]["id"] for sample in samples(out / split).values()]


def findings(out: Path) -> list[tuple[str, str, str]]:
    report = json.loads((out / "conversion.json").read_bytes())
    return [(entry["reason"], entry["item"], entry["detail"]) for entry in report["findings"]]


def test_a_sample_is_a_captioned_target(tmp_path: Path) -> None:
    convert(source(tmp_path / "danbooru"), tmp_path / "out")
    sample = samples(tmp_path / "out" / "train")["0001001"]
    assert sample["target_caption"] == "1girl, solo, hatsune miku, vocaloid, long hair, smile"
    assert sample["metadata"] == {"id": 1001, "rating": "s", "score": 5, "tags_cut": 0}
    assert sample["target"].size == (16, 16) and "source" not in sample


def test_both_years_give_the_same_samples(tmp_path: Path) -> None:
    special = post(1003, {**TAGS, "general": "smile solo"}, file_ext="png", score=-2, parent_id=1002)
    for year in YEARS:
        convert(source(tmp_path / str(year), special, year=year), tmp_path / f"{year}-out", val=0.5)
    assert contents(tmp_path / "2017-out" / "train") == contents(tmp_path / "2021-out" / "train")
    assert contents(tmp_path / "2017-out" / "val") == contents(tmp_path / "2021-out" / "val")


def test_originals_of_any_suffix_and_kaggles_folders_give_the_same_too(tmp_path: Path) -> None:
    convert(source(tmp_path / "a"), tmp_path / "out-a")
    original = source(tmp_path / "b")
    (original / "512px").rename(original / "original")
    for path in (original / "original").rglob("*.jpg"):
        path.rename(path.with_suffix(".png"))
    kaggle = source(tmp_path / "c")
    for name, nested in (("512px", "danbooru-images"), ("metadata", "danbooru-metadata")):
        (kaggle / nested).mkdir()
        (kaggle / name).rename(kaggle / nested / nested)
    elsewhere = source(tmp_path / "d")
    (elsewhere / "512px").rename(elsewhere / "256px")
    for number, root in enumerate((original, kaggle, elsewhere)):
        convert(root, tmp_path / f"out-{number}", pictures="256px" if root == elsewhere else "")
        assert contents(tmp_path / f"out-{number}" / "train") == contents(tmp_path / "out-a" / "train")


def test_the_subset_goes_folder_by_folder_and_is_the_same_of_a_part(tmp_path: Path) -> None:
    refused = [post(1004, rating="e"), post(3000, rating="q")]
    whole = source(tmp_path / "whole", *refused)
    for count in (1, 3, 5, 9):
        convert(whole, tmp_path / f"out-{count}", images=count)
        assert ids(tmp_path / f"out-{count}") == list(NUMBERS[:count])
    part = source(tmp_path / "part", *refused)
    for folder in ("0002", "0004"):
        for path in (part / "512px" / folder).iterdir():
            path.unlink()
    report = convert(part, tmp_path / "out-part", images=4)
    assert report["dropped"] == {"filter: rating": 1}
    convert(whole, tmp_path / "out-four", images=4)
    assert contents(tmp_path / "out-part" / "train") == contents(tmp_path / "out-four" / "train")


@pytest.mark.parametrize(
    ("filters", "changes", "reason"),
    [
        ({}, {"rating": "q"}, "filter: rating"),
        ({"ratings": ("q", "e")}, {"rating": "s"}, "filter: rating"),
        ({}, {"is_deleted": True}, "filter: deleted"),
        ({}, {"is_banned": True}, "filter: banned"),
        ({}, {"file_ext": "gif"}, "filter: kind"),
        ({}, {"tags": {**TAGS, "general": "comic 1girl"}}, "filter: tag"),
        ({"without": ("monochrome",)}, {"tags": {**TAGS, "general": "1girl monochrome"}}, "filter: tag"),
        ({"min_score": 5}, {"score": 4}, "filter: score"),
        ({"min_side": 600}, {"image_width": 599}, "filter: side"),
    ],
)
@pytest.mark.parametrize("year", YEARS)
def test_each_filter_refuses_what_it_should_and_counts_it(
    filters: dict[str, Any], changes: dict[str, Any], reason: str, year: Year, tmp_path: Path
) -> None:
    passing = {"rating": filters.get("ratings", "s")[0]}
    posts = [post(1000, **passing), post(1001, **{**passing, **changes})]
    root = write_danbooru(tmp_path / "danbooru", posts, year)
    report = convert(root, tmp_path / "out", filters=PostFilters(**filters))
    assert ids(tmp_path / "out") == [1000] and report["dropped"] == {reason: 1}
    assert findings(tmp_path / "out")[0][:2] == (reason, "post 1001")


def test_a_post_that_says_nothing_passes_the_bounds() -> None:
    silent = Post(1, 0, "", "png", None, "s", None, (), ())
    assert PostFilters(min_score=9).refused(silent, safe="s") is None


def test_where_a_post_is_general_sensitive_ones_are_not_safe(tmp_path: Path) -> None:
    root = source(tmp_path / "danbooru", post(1003, rating="g"), year=2021)
    report = convert(root, tmp_path / "out")
    assert ids(tmp_path / "out") == [1003] and report["dropped"] == {"filter: rating": 5}
    convert(root, tmp_path / "both", filters=PostFilters(("g", "s")))
    assert ids(tmp_path / "both") == [*NUMBERS, 1003]


def test_everything_that_is_wrong_is_counted_and_named_in_one_line(tmp_path: Path) -> None:
    untagged = [post(1003, {}), post(2003, {"artist": "someone", "meta": "highres"})]
    root = source(tmp_path / "danbooru", *untagged, post(4001))
    whole = line(post(1006, id=None), 2017) + line(post(5001, {"general": "half_\ud800"}), 2017)
    broken = [line(post(1005), 2017)[:-20], "[1]", "", whole]
    write(root, {"metadata/201702.json": "\n".join(broken), "512px/0001/notes.txt": ""})
    write(
        root,
        {picture_path(3001): picture(1), picture_path(5001): picture(2), picture_path(1002): b"\xff\xd8\xff broken"},
    )
    (root / picture_path(4001)).unlink()
    report = convert(root, tmp_path / "out")
    assert ids(tmp_path / "out") == [1000, 2000, 1001, 2001]
    assert report["dropped"] == {"json": 2, "field": 1, "tags": 2, "missing": 1, "unlisted": 1, "image": 1, "text": 1}
    found = findings(tmp_path / "out")
    assert {(reason, item) for reason, item, _ in found} == {
        ("json", "201702.json:1"),
        ("json", "201702.json:2"),
        ("field", "201702.json:4"),
        ("tags", "post 1003"),
        ("tags", "post 2003"),
        ("missing", "post 4001"),
        ("text", "0005001"),
        ("unlisted", picture_path(3001)),
        ("image", picture_path(1002)),
    }
    assert ("json", "201702.json:2", "expected an object, found list") in found
    assert ("missing", "post 4001", "no picture 4001.* in folder 0001") in found
    assert all("\n" not in detail for _, _, detail in found)


def test_posts_and_originals_that_come_again_count_once(tmp_path: Path) -> None:
    again = [post(1001), post(3001, md5=post(1001)["md5"]), post(4001, md5=""), post(5001, md5="")]
    banned_first = [post(1003, md5="x", is_banned=True), post(2003, md5="x")]
    report = convert(source(tmp_path / "danbooru", *again, *banned_first), tmp_path / "out")
    assert ids(tmp_path / "out") == [1000, 2000, 1001, 2001, 4001, 5001, 1002, 2003]
    assert report["dropped"] == {"duplicate": 2, "filter: banned": 1}
    assert ("duplicate", "post 3001", "the same original file as post 1001") in findings(tmp_path / "out")


def test_larger_pictures_are_reduced_and_others_stay_byte_for_byte(tmp_path: Path) -> None:
    root = source(tmp_path / "danbooru")
    write(root, {picture_path(1000): picture(1, (32, 40)), picture_path(2000): picture(2, (15, 90))})
    convert(root, tmp_path / "out", size=16)
    found = samples(tmp_path / "out" / "train")
    assert {sample["target"].size for sample in found.values()} == {(16, 20), (15, 90), (16, 16)}
    expected = Image.open(root / picture_path(1000)).resize((16, 20), Image.Resampling.LANCZOS)
    assert found["0001000"]["target"].tobytes() == expected.tobytes()
    whole = convert(root, tmp_path / "whole", size=0)
    tar = (tmp_path / "whole" / "train" / "00000.tar").read_bytes()
    assert whole["samples"] == 5 and all((root / picture_path(number)).read_bytes() in tar for number in NUMBERS)


def test_a_caption_does_not_depend_on_which_pictures_are_there(tmp_path: Path) -> None:
    """The frequency of tags is that of all posts, refused ones too."""
    rare = post(1004, {"general": "smile long_hair"})
    explicit = [post(9 + n, {"general": "smile"}, rating="e") for n in range(9)]
    root = write_danbooru(tmp_path / "danbooru", [rare, *explicit])
    for folder in (root / "512px").iterdir():
        if folder.name != "0004":
            (folder / f"{int(folder.name)}.jpg").unlink()
    convert(root, tmp_path / "out")
    assert [sample["target_caption"] for sample in samples(tmp_path / "out" / "train").values()] == ["smile, long hair"]


def test_variants_of_a_picture_are_on_one_side(tmp_path: Path) -> None:
    children = [post(10_000 + n, parent_id=NUMBERS[n % 5]) for n in range(40)]
    convert(source(tmp_path / "danbooru", *children), tmp_path / "out", val=0.5)
    sides = {split: set(ids(tmp_path / "out", split)) for split in ("train", "val")}
    assert all(sides.values()) and sum(map(len, sides.values())) == 45
    for side in sides.values():
        assert {child["parent_id"] for child in children if child["id"] in side} <= side


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (
            {"metadata/x.json": '{"id": "1", "name": "1girl"}\n'},
            "x.json: expected posts with `tags` or",
        ),
        ({"metadata/x.json": "[\n" * 9}, "x.json: expected posts with `tags`"),
        ({"metadata/x.txt": ""}, "expected JSON lines in metadata or danbooru-metadata"),
    ],
)
def test_metadata_without_tags_is_one_line(
    files: dict[str, str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "danbooru", {**files, picture_path(1): picture(1)})
    assert main(["danbooru", "--source", str(root), "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"images": 0}, "expected --images of at least 1"),
        ({"size": -1}, "--size of at least 0, found 300000 and -1"),
        ({"val": 1.0}, "--val: expected a share in"),
        ({"pictures": "elsewhere"}, "expected pictures elsewhere/0000/1000.jpg"),
    ],
)
def test_settings_that_cannot_be_used_are_one_line(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=words):
        convert(source(tmp_path / "danbooru"), tmp_path / "out", **settings)


def test_pictures_outside_of_the_source_are_not_read(tmp_path: Path) -> None:
    root = source(tmp_path / "danbooru")
    (root / "512px").rename(tmp_path / "512px")
    with pytest.raises(ConversionError, match="no sample was kept of 5 entries, dropped were: outside 5"):
        convert(root, tmp_path / "out", pictures="../512px")


def test_a_killed_conversion_goes_on_where_it_was(root: Path, tmp_path: Path) -> None:
    folder = source(tmp_path / "danbooru", *(post(1003 + n) for n in range(12)), post(2100, {}))
    (folder / picture_path(2100)).unlink()
    command = command_of(warm.python(), "danbooru", folder, tmp_path / "out", workers=1)
    finished = kill_after(8, command, root, tmp_path / "out")
    assert len(finished) >= 2
    built = CONVERTERS["danbooru"].build(_parser().parse_args(["danbooru", "--source", str(folder), "--out", "out"]))
    for out in ("out", "alone"):
        converted(built, tmp_path / out, samples_per_shard=4)
    assert contents(tmp_path / "out") == contents(tmp_path / "alone")


def test_the_command_lines_defaults_are_the_classes() -> None:
    options = _parser().parse_args(["danbooru", "--source", "folder", "--out", "out"])
    assert CONVERTERS["danbooru"].build(options) == Danbooru("folder")


def test_the_result_streams(tmp_path: Path) -> None:
    convert(source(tmp_path / "danbooru"), tmp_path / "out")
    data = ShardData(train=str(tmp_path / "out" / "train"), global_batch_size=5, resolution=8, num_workers=0)
    (batch,) = data.train_dataloader()
    assert batch["has_target"].all() and batch["has_target_caption"].all() and not batch["has_source"].any()
