"""edit.py --layered and evaluate.py --layered on a run of MMIG's third stage, which trains the denoiser."""

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

import edit
import evaluate
from datamodules.tinyworld.sample import make_sample
from mmig.evaluation.rows import read_rows
from tests.mmig.evaluation.support import write_data

QUICK = ["--sampling", "inner_steps=6", "lr=0.02"]


@pytest.fixture
def given(mmig_run: Path, tmp_path: Path) -> list[str]:
    """Arguments of an edit of one sample of the small world; its mask lies beside it."""
    sample = make_sample(0, "test", 0, photographs=False)
    sample["source"].save(tmp_path / "in.png")
    sample["reference_mask"].save(tmp_path / "mask.png")
    files = ["--image", str(tmp_path / "in.png"), "--out", str(tmp_path / "out.png")]
    return ["--checkpoint", str(mmig_run), *files, "--instruction", sample["instruction"], "--device", "cpu"]


def test_edit_writes_an_image_and_says_its_layers_and_their_loss(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit.main([*given, "--layered", "--response", "a large yellow circle on a white background", *QUICK])
    with Image.open(tmp_path / "out.png") as edited:
        assert edited.size == (64, 64)
    told = capsys.readouterr().out
    assert "response (given): a large yellow circle" in told
    assert "object: a large yellow circle\nbackground: on a white background\n" in told
    before, after = (float(number) for number in re.search(r"loss of the layers: (\S+), then (\S+)", told).groups())
    assert 0 < after < before


def test_an_edit_takes_phrases_and_a_mask(given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    phrases = ["--object-phrase", "a star", "--background-phrase", "the sky", "--mask", str(tmp_path / "mask.png")]
    edit.main([*given, "--layered", *phrases, "--sampling", "inner_steps=0", "--steps", "3"])
    told = capsys.readouterr().out
    assert "response (generated): " in told and "object: a star\nbackground: the sky\n" in told
    masked = re.search(r"loss of the layers: (\S+), then (\S+)", told).groups()
    edit.main([*given, "--layered", *phrases[:-2], "--sampling", "inner_steps=0", "--steps", "3"])
    whole = re.search(r"loss of the layers: (\S+), then (\S+)", capsys.readouterr().out).groups()
    assert masked[0] == masked[1] and float(masked[0]) < 0.9 * float(whole[0])


def test_evaluate_scores_layered_edits(mmig_run: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", [make_sample(0, "test", index, photographs=False) for index in range(2)])
    run = ["--checkpoint", str(mmig_run), "--data", str(data), "--metrics", "l1_target", "--device", "cpu"]
    evaluate.main([*run, "--out", str(tmp_path / "usual")])
    for size in ("1", "2"):
        evaluate.main([*run, "--layered", *QUICK, "--out", str(tmp_path / size), "--batch-size", size])
    usual, one, two = (
        [row.values["l1_target"] for row in read_rows(tmp_path / name / "samples.jsonl")]
        for name in ("usual", "1", "2")
    )
    assert len(two) == 2 and two == pytest.approx(one, abs=1e-4)
    assert two != pytest.approx(usual, abs=1e-5)
    reports = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("usual", "2")]
    assert [report["layered"] for report in reports] == [False, True]
    assert reports[1]["sampling"]["inner_steps"] == 6 and "inner_steps" not in reports[0]["sampling"]


def test_a_part_of_a_protocol_may_be_edited_in_layers(mmig_run: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data", [make_sample(0, "test", 0, photographs=False)])
    parts = {
        "usual": {"data": str(data)},
        "layers": {"data": str(data), "layered": True, "grid": {"inner_steps": [0, 4]}},
    }
    protocol = {"title": "layers", "scoring": {"metrics": ["l1_target"]}, "parts": parts}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(protocol), encoding="utf-8")
    run = ["--protocol", str(tmp_path / "protocol.yaml"), "--checkpoint", str(mmig_run), "--device", "cpu"]
    evaluate.main([*run, "--out", str(tmp_path / "out")])
    places = ("usual", "layers/inner_steps=0", "layers/inner_steps=4")
    reports = [json.loads((tmp_path / "out" / place / "metrics.json").read_text()) for place in places]
    assert [report["layered"] for report in reports] == [False, True, True]
    assert [report["sampling"].get("inner_steps") for report in reports] == [None, 0, 4]
    assert len({report["metrics"]["l1_target"]["value"] for report in reports}) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--object-phrase", "a star"], "--object-phrase: only layered edits use it; leave it out, or give --layered"),
        (["--mask", "no.png"], "--mask: only layered edits use it"),
        (["--layered", "--mask", "no.png"], "--mask no.png: no such file"),
        (["--layered", "--mask", "wide.png"], "wide.png: expected the image's shape of 64x64 pixels, found 80x64"),
        (["--layered", "--sampling", "alpha=2.0"], r"sampling.alpha: expected .* in \[0, 1\], found 2.0"),
        (["--layered", "--sampling", "beta=2.0"], "--sampling beta=2.0: expected NAME=VALUE with one of alpha"),
        (["--sampling", "inner_steps=2"], "--sampling inner_steps=2: expected NAME=VALUE"),
        (["--layered", "--show-attention", "a.png"], "--show-attention: LayeredEditor gives no attention maps"),
    ],
)
def test_what_does_not_fit_is_one_line(
    options: list[str], message: str, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("L", (80, 64)).save("wide.png")
    with pytest.raises(SystemExit, match=message) as stopped:
        edit.main([*given, *options])
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out.png").exists()


def test_other_methods_are_refused_in_one_line(
    run_directory: Path, data_config: Path, given: list[str], tmp_path: Path
) -> None:
    message = "error: --layered: NoisyCopy does not edit in layers; leave it out, or take a run of an MMIG stage"
    scored = ["--checkpoint", str(run_directory), "--data", str(data_config), "--out", str(tmp_path / "evaluation")]
    for main, arguments in ((edit.main, [*given, "--checkpoint", str(run_directory)]), (evaluate.main, scored)):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--layered"])
        assert str(stopped.value) == message
    assert not (tmp_path / "out.png").exists() and not (tmp_path / "evaluation" / "metrics.json").exists()
