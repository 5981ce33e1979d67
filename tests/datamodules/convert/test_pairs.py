"""EVR, GIER and MA5k-Req: the authors' splits and totals, every request, masks, pairs of other shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.convert.engine import Options, convert
from datamodules.convert.evr import EVR
from datamodules.convert.gier import GIER
from datamodules.convert.ma5k import MA5k
from datamodules.convert.source import ConversionError
from datamodules.shard_index import ShardIndex
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform
from tests.datamodules.convert.benchmarks import evr_entry, evr_files, gier_files, ma5k_files
from tests.datamodules.convert.layouts import picture, write
from tests.datamodules.convert.results import converted, samples


@pytest.mark.parametrize(
    ("at", "images"), [("dataset/adobe/", "images/"), ("", "images/"), ("dataset/adobe/", "dataset/adobe/images/")]
)
def test_evr_gives_a_sample_a_request_wherever_its_files_are(at: str, images: str, tmp_path: Path) -> None:
    report = converted(EVR(str(write(tmp_path / "source", evr_files(at, images)))), tmp_path / "out")
    assert {split: part["samples"] for split, part in report["splits"].items()} == {"train": 3, "val": 6, "test": 6}
    found = samples(tmp_path / "out" / "val")
    assert [s["instruction"] for s in found.values()] == [f"request {k} of {n}" for n in (3, 4) for k in range(3)]
    assert found["val-00001-2"]["metadata"] == {"uid": "Reddit_4"}


@pytest.fixture(scope="module")
def gier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("gier")
    return root / "out", converted(GIER(str(write(root / "source", gier_files()))), root / "out")


def test_gier_gives_experts_and_amateurs_requests(gier: tuple[Path, dict[str, Any]]) -> None:
    found = samples(gier[0] / "train")
    texts = [(s["instruction"], s["metadata"]["by"]) for s in found.values()]
    assert texts[:3] == [("expert 0", "expert"), ("expert again 0", "expert"), ("amateur 0", "amateur")]
    assert len(found) == 9


def test_gier_keeps_what_the_authors_note(gier: tuple[Path, dict[str, Any]]) -> None:
    notes = samples(gier[0] / "train")["train-00001-0"]["metadata"]
    expected = {"request": "could someone edit 1?", "dataset": "reddit", "by": "expert"}
    operators = {"brightness": {"local": False, "ids": []}}
    assert notes == {**expected, "operators": operators, "subsets": ["global", "shapeAlign"]}


def test_giers_mask_is_the_union_of_the_local_operators_regions(gier: tuple[Path, dict[str, Any]]) -> None:
    found = samples(gier[0] / "train")
    expected = np.zeros((16, 16), np.uint8)
    expected[[1, 2, 10, 11, 12]] = 255
    assert np.array_equal(found["train-00000-1"]["target_mask"], expected)
    assert "target_mask" not in found["train-00001-0"]


def test_a_mask_that_cannot_be_read_costs_no_sample(gier: tuple[Path, dict[str, Any]]) -> None:
    out, report = gier
    assert report["splits"]["train"]["kept"] == {"mask": 1} and report["splits"]["train"]["dropped"] == {}
    assert "train-00002-0" in samples(out / "train")


def test_ma5k_gives_a_sample_an_expert(tmp_path: Path) -> None:
    converted(MA5k(str(write(tmp_path / "source", ma5k_files()))), tmp_path / "out")
    found = samples(tmp_path / "out" / "train")
    assert [(key, s["instruction"]) for key, s in found.items()] == [
        ("train-00000", "edit A"),
        ("train-00001", "edit B"),
    ]
    assert found["train-00001"]["metadata"] == {"photograph": "0001", "expert": "B"}
    assert set(samples(tmp_path / "out" / "test")) == {"test-00000"}


@pytest.mark.parametrize("shapes", ["resize", "drop"])
def test_a_target_of_another_shape_is_resized_or_dropped_and_counted(shapes: str, tmp_path: Path) -> None:
    files = evr_files()
    files["images/Reddit.com_0_b.png"] = picture(2, (16, 24), "PNG")
    files["images/Reddit.com_1_b.png"] = picture(2, (32, 32), "PNG")  # the same shape: stays as it is
    source = write(tmp_path / "source", files)
    train = converted(EVR(str(source), shapes), tmp_path / "out")["splits"]["train"]  # type: ignore[arg-type]
    found = samples(tmp_path / "out" / "train")
    assert train["kept" if shapes == "resize" else "dropped"] == {"shapes": 1}
    assert ("train-00000-0" in found) == (shapes == "resize")
    if shapes == "resize":
        assert found["train-00000-0"]["target"].size == found["train-00000-0"]["source"].size == (16, 16)
    assert found["train-00001-0"]["target"].size == (32, 32)


@pytest.mark.parametrize(
    ("kind", "files", "words"),
    [
        (EVR, evr_files(), "split 'train' of evr has 3 pairs, the published one 3,061"),
        (GIER, gier_files(), "split 'train' of gier has 3 pairs, the published one 4,943"),
        (MA5k, ma5k_files(), "split 'train' of ma5k has 2 requests, the published one 17,325"),
    ],
)
def test_a_set_that_is_not_whole_is_refused(kind: type, files: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"{words}; fetch the rest, or say that this is a part with --partial"):
        convert(kind(str(write(tmp_path / "source", files))), tmp_path / "out", Options())


@pytest.mark.parametrize(
    ("kind", "pairs", "requests"),
    [(EVR, (3061, 383, 495), 5695), (GIER, (4943, 618, 618), 29_871), (MA5k, (17_325, 2_475, 4_950), 24_750)],
)
def test_the_totals_are_those_of_the_published_protocol(kind: type, pairs: tuple, requests: int) -> None:
    parts = [kind.published[split] for split in ("train", "val", "test")]
    assert sum(part["requests"] for part in parts) == requests
    assert tuple(part.get("pairs", part["requests"]) for part in parts) == pairs


def test_a_whole_set_passes(tmp_path: Path) -> None:
    """EVR's annotations at their full size; one picture stands for all, which are not read here."""
    files: dict[str, Any] = {}
    for name, (split, requests) in {"train": ("train", 1), "valid": ("val", 3), "test": ("test", 3)}.items():
        entries = [evr_entry(0, requests) for _ in range(EVR.published[split]["pairs"])]
        files[f"{name}.json"] = entries
    source = EVR(str(write(tmp_path, {**files, "images/Reddit.com_0_a.jpg": picture(0)})))
    source.check_totals(source.splits())


@pytest.mark.parametrize("kind", [EVR, GIER, MA5k])
def test_a_folder_without_annotations_is_one_line(kind: type, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"expected .*\.json in .*, found none"):
        kind(str(tmp_path)).splits()


def test_annotations_without_pictures_are_one_line(tmp_path: Path) -> None:
    files = {name: content for name, content in evr_files().items() if name.endswith(".json")}
    with pytest.raises(ConversionError, match=r"expected the pictures \('Reddit.com_0_a.jpg', ...\) in one of"):
        EVR(str(write(tmp_path, files))).splits()


def test_a_pair_without_requests_is_dropped_and_counted(tmp_path: Path) -> None:
    files = evr_files()
    files["dataset/adobe/train.json"][0]["sents"] = []
    files["dataset/adobe/train.json"][1]["sents"] = None
    report = converted(EVR(str(write(tmp_path / "source", files))), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"field": 2} and report["splits"]["train"]["samples"] == 1


def test_blank_requests_are_dropped_and_counted(tmp_path: Path) -> None:
    files = evr_files()
    files["dataset/adobe/valid.json"][0]["sents"][1] = " "
    report = converted(EVR(str(write(tmp_path / "evr", files))), tmp_path / "out")
    assert report["splits"]["val"]["dropped"] == {"field": 1} and report["splits"]["val"]["samples"] == 5
    files = ma5k_files()
    del files["annotations/train_sess_1.json"][0]["request"]
    report = converted(MA5k(str(write(tmp_path / "ma5k", files))), tmp_path / "out-ma5k")
    assert report["splits"]["train"]["dropped"] == {"field": 1} and report["splits"]["train"]["samples"] == 1


@pytest.mark.parametrize(
    ("kind", "name"), [(EVR, "train.json"), (GIER, "train_sess_3.json"), (MA5k, "val_sess_1.json")]
)
def test_annotations_without_entries_are_one_line(kind: type, name: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="found there; is it the right folder"):
        converted(kind(str(write(tmp_path / "source", {name: []}))), tmp_path / "out")


def test_pictures_are_found_where_many_of_the_first_are_missing(tmp_path: Path) -> None:
    entries = [evr_entry(number, 1) for number in range(400)]
    files = {"train.json": entries, **{f"images/{entry['img0']}": picture(0) for entry in entries[300:]}}
    assert EVR(str(write(tmp_path, files))).splits()["train"][0].source == "images/Reddit.com_0_a.jpg"


def test_a_subset_of_gier_that_names_no_numbers_is_one_line(tmp_path: Path) -> None:
    files = {**gier_files(), "splits/train_global_sess_3.json": [[1]]}
    with pytest.raises(ConversionError, match=r"train_global_sess_3\.json: expected a list of numbers, found '\[1\]'"):
        GIER(str(write(tmp_path, files))).splits()


def test_an_annotation_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    files = evr_files()
    files["dataset/adobe/train.json"][1]["img1"] = "../../outside.png"
    files["dataset/adobe/train.json"][2]["img1"] = None
    write(tmp_path, {"outside.png": picture(0, form="PNG")})
    report = converted(EVR(str(write(tmp_path / "source", files))), tmp_path / "out")
    assert report["splits"]["train"]["dropped"] == {"missing": 1, "outside": 1}


def test_the_result_streams(gier: tuple[Path, dict[str, Any]]) -> None:
    stream = ShardStream(ShardIndex.load(gier[0] / "train"), global_batch_size=9, seed=0, transform=ImageTransform(16))
    (batch,) = stream
    assert batch["has_target_mask"].sum() == 3 and batch["has_instruction"].all()
    assert json.dumps(batch["metadata"][0]["operators"])
