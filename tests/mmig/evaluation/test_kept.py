"""Pictures beside an evaluation: lossless, under the names that --images reads, and nobody else's are replaced."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluate
from datamodules.shards import write_shards
from mmig.evaluation.finished import read_finished
from mmig.evaluation.rows import read_rows
from tests.mmig.evaluation.support import random_samples, write_data

METRICS = ("--metrics", "l1_target", "ssim_target")


@pytest.fixture(scope="module")
def given(run_directory: Path, data_config: Path) -> list[str]:
    return ["--checkpoint", str(run_directory), "--data", str(data_config), "--device", "cpu", *METRICS]


@pytest.fixture(scope="module")
def kept(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an evaluation with two seeds."""
    out = tmp_path_factory.mktemp("kept") / "copy"
    evaluate.main([*given, "--seeds", "2", "--out", str(out)])
    return out


def test_every_edit_has_a_picture_and_every_sample_its_own(kept: Path) -> None:
    keys = {row.key for row in read_rows(kept / "samples.jsonl")}
    pictures = kept / "pictures"
    assert {path.name for path in pictures.glob("*.png")} == {f"{key}{seed}.png" for key in keys for seed in ("", ".1")}
    for kind in ("source", "target"):
        assert {path.stem for path in (pictures / kind).iterdir()} == keys
    for sample in random_samples(5):
        with Image.open(pictures / "source" / f"{sample['key']}.png") as image:
            assert np.array_equal(np.asarray(image), np.asarray(sample["source"]))
    assert json.loads((pictures / "texts.json").read_text())[f"{min(keys)}.1"].endswith(", done")


def test_images_scores_them_again(kept: Path, data_config: Path, tmp_path: Path) -> None:
    again = ["--images", str(kept / "pictures"), "--data", str(data_config), "--seeds", "2", *METRICS]
    evaluate.main([*again, "--out", str(tmp_path / "again")])
    before, after = (read_rows(folder / "samples.jsonl") for folder in (kept, tmp_path / "again"))
    for ours, theirs in zip(before, after, strict=True):
        assert (ours.key, ours.seed, ours.text) == (theirs.key, theirs.seed, theirs.text)
        assert ours.values == pytest.approx(theirs.values, abs=0.01)  # of 256 levels


def test_pictures_may_be_scored_where_they_lie(given: list[str], data_config: Path, tmp_path: Path) -> None:
    evaluate.main([*given, "--out", str(tmp_path)])
    before = {path: path.read_bytes() for path in (tmp_path / "pictures").rglob("*.png")}
    again = ["--images", str(tmp_path / "pictures"), "--data", str(data_config), *METRICS]
    evaluate.main([*again, "--out", str(tmp_path)])
    assert {path: path.read_bytes() for path in (tmp_path / "pictures").rglob("*.png")} == before
    assert "images" in json.loads((tmp_path / "metrics.json").read_text())


def test_only_so_many_samples_keep_theirs_and_none_if_told_so(given: list[str], tmp_path: Path) -> None:
    evaluate.main([*given, "--out", str(tmp_path), "--keep-pictures", "2"])
    first = sorted(path.stem for path in (tmp_path / "pictures").glob("*.png"))
    assert first == sorted(row.key for row in read_rows(tmp_path / "samples.jsonl"))[:2]
    evaluate.main([*given, "--out", str(tmp_path), "--keep-pictures", "0"])
    assert not (tmp_path / "pictures").exists()
    assert "No pictures were kept" in (tmp_path / "report.html").read_text()
    assert not list(tmp_path.glob(".*"))


def test_pictures_of_an_earlier_evaluation_do_not_stay(given: list[str], tmp_path: Path) -> None:
    evaluate.main([*given, "--out", str(tmp_path)])
    evaluate.main([*given, "--out", str(tmp_path), "--limit", "1"])
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 1


def test_pictures_of_something_else_are_not_replaced(given: list[str], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "mine.png").write_bytes(b"mine")
    with pytest.raises(SystemExit, match="pictures holds pictures of something else"):
        evaluate.main([*given, "--out", str(tmp_path)])
    assert (tmp_path / "pictures" / "mine.png").read_bytes() == b"mine"


def test_an_evaluation_that_fails_leaves_no_pictures(given: list[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no split"):
        evaluate.main([*given, "--out", str(tmp_path / "out"), "--split", "val"])
    assert not list(tmp_path.glob("out/**/*"))


def test_of_samples_of_several_sources_with_one_key_no_picture_stands_for_both(
    run_directory: Path, tmp_path: Path
) -> None:
    first, second = random_samples(3), random_samples(6)[3:]
    second[0]["key"] = first[0]["key"]
    write_shards(second, tmp_path / "more")
    sources = [{"path": str(tmp_path / name)} for name in ("test", "more")]
    write_shards(first, tmp_path / "test")
    data = write_data(tmp_path / "unused", first, test=sources)
    evaluate.main(["--checkpoint", str(run_directory), "--data", str(data), *METRICS, "--out", str(tmp_path / "out")])
    kept = {path.stem for path in (tmp_path / "out" / "pictures").glob("*.png")}
    assert kept == {sample["key"] for sample in [*first[1:], *second[1:]]}


def test_the_page_of_an_evaluation_shows_its_pictures(kept: Path) -> None:
    evaluation = read_finished([kept])[0]
    assert evaluation.has_pictures
    text = (kept / "report.html").read_text()
    assert text.count("data:image/png;base64,") >= 3 * len(evaluation.keys)
    assert evaluation.report["command"] in text
    assert evaluation.report["command"].startswith("python evaluate.py --checkpoint ")
