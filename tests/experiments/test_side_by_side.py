"""The figure shows samples that all systems have pictures of, one column a system."""

import shutil
from pathlib import Path

import pytest
from PIL import Image

import evaluate
from experiments.side_by_side import main, read_named, shown_keys
from mmig.evaluation.finished import NotComparableError

WORLD = """
data:
  class_path: datamodules.tinyworld.data.TinyWorldData
  init_args: {{root: {root}, level: plain, train_count: 4, val_count: 8, test_count: 8, eval_batch_size: 8}}
"""


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of the source as it is, once with four pictures kept and once with two."""
    place = tmp_path_factory.mktemp("evaluations")
    (place / "data.yaml").write_text(WORLD.format(root=place / "world"))
    for name, count in (("first", 4), ("second", 2)):
        scored = ["--config", "configs/editors/identity.yaml", "--data", str(place / "data.yaml")]
        kept = ["--out", str(place / name), "--keep-pictures", str(count), "--device", "cpu"]
        evaluate.main([*scored, *kept, "--metrics", "l1_input"])
    return [f"{name}={place / name}" for name in ("first", "second")]


def test_it_is_a_picture_of_what_all_have(evaluations: list[str], tmp_path: Path) -> None:
    assert len(shown_keys(list(read_named(evaluations).values()), 8)) == 2
    main([*evaluations, "--out", str(tmp_path / "figure.png")])
    with Image.open(tmp_path / "figure.png") as figure:
        assert figure.width > figure.height > 200


def test_one_edit_may_be_asked_for_in_several_ways(evaluations: list[str], tmp_path: Path) -> None:
    name, _, folder = evaluations[0].partition("=")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    rows = (copy / "samples.jsonl").read_text(encoding="utf-8").replace('"instruction": "', '"instruction": "please ')
    (copy / "samples.jsonl").write_text(rows, encoding="utf-8")
    with pytest.raises(NotComparableError, match="asks for"):
        read_named([evaluations[0], f"copy={copy}"])
    assert list(read_named([evaluations[0], f"copy={copy}"], by_key=True)) == [name, "copy"]


def test_what_cannot_be_shown_is_one_line(evaluations: list[str], tmp_path: Path) -> None:
    for systems, said in (
        ([evaluations[0].partition("=")[2]], "expected NAME=FOLDER of an evaluation"),
        ([evaluations[0], evaluations[0]], "first: given twice"),
        ([f"first={tmp_path}"], "no finished evaluation"),
    ):
        with pytest.raises(SystemExit, match=said):
            main([*systems, "--out", str(tmp_path / "figure.png")])
