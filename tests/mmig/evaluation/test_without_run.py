"""evaluate.py --config and --images: scores without a run."""

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
import yaml
from PIL import Image

import evaluate
from datamodules.tinyworld.sample import make_sample
from mmig.callbacks.prediction_writer import PredictionWriter
from mmig.evaluation.pictures import to_pil
from mmig.evaluation.rows import SampleRow, read_rows
from mmig.training.rng import sample_generators
from tests.mmig.evaluation.support import NoisyCopy, random_samples, write_data
from tests.mmig.metrics.support import random_batch

JUDGE = "datamodules.tinyworld.judge.TinyWorldJudge"
LOUDNESS = "tests.mmig.metrics.test_suite.Loudness"
LOCAL = {"add", "remove", "replace", "recolour", "move", "resize"}


def copy_config(folder: Path, name: str = "copy") -> Path:
    """A configuration of `NoisyCopy`."""
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"editor": {"class_path": "tests.mmig.evaluation.test_opening.make_copy"}}))
    return path


def report_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def test_identity_edits_nothing_and_preserves_all(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    samples = [make_sample(0, "test", index, photographs=False) for index in range(60)]
    data = write_data(tmp_path / "data", samples, eval_batch_size=20)
    given = ["--config", "configs/editors/identity.yaml", "--data", str(data), "--metrics", "success", "preservation"]
    evaluate.main([*given, "--judge", JUDGE, "--out", str(tmp_path / "out"), "--device", "cpu"])
    report = report_of(tmp_path / "out")
    success, preservation = (report["metrics"][name]["per_edit_type"] for name in ("success", "preservation"))
    assert success.keys() >= LOCAL
    assert {kind: success[kind]["value"] for kind in LOCAL} == dict.fromkeys(LOCAL, 0.0)
    assert {kind: preservation[kind]["value"] for kind in LOCAL} == dict.fromkeys(LOCAL, 1.0)
    assert report["metrics"]["preservation"]["value"] == 1.0
    assert report["config"] == {
        "path": "configs/editors/identity.yaml",
        "editor": {"class_path": "mmig.evaluation.editors.Identity"},
    }
    assert report["editor_class"] == "mmig.evaluation.editors.Identity"
    assert "checkpoint" not in report and "weights" not in report


def test_settings_of_a_configuration_can_be_changed_and_are_reported(data_config: Path, tmp_path: Path) -> None:
    given = ["--config", str(copy_config(tmp_path)), "--data", str(data_config), "--metrics", "l1_input"]
    evaluate.main([*given, "--out", str(tmp_path / "noisy")])
    evaluate.main([*given, "--out", str(tmp_path / "plain"), "--sampling", "factor=0"])
    noisy, plain = report_of(tmp_path / "noisy"), report_of(tmp_path / "plain")
    assert noisy["metrics"]["l1_input"]["value"] > plain["metrics"]["l1_input"]["value"] == 0
    assert (noisy["sampling"], plain["sampling"]) == ({"num_steps": 1, "factor": 1.0}, {"num_steps": 1, "factor": 0.0})
    assert noisy["required_fields"] == ["source", "instruction"]


def write_pictures(folder: Path, seeds: tuple[int, ...], without: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """What `NoisyCopy` makes of the samples of `data_config`, as files; returns what it made by key, once a seed."""
    batch, made = random_batch(5), []
    folder.mkdir()
    for seed in seeds:
        images = to_pil(NoisyCopy(0.1)(batch, sample_generators(seed, batch["key"])).images)
        made.append(dict(zip(batch["key"], images, strict=True)))
        for key, image in made[-1].items():
            if key not in without:
                image.save(folder / (f"{key}.png" if seed == 0 else f"{key}.{seed}.png"))
    return made


def test_pictures_are_scored_as_their_editor_is(data_config: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", (0, 1))
    (tmp_path / "pictures" / "texts.json").write_text(json.dumps({"sample0-001.1": "a text"}))
    given = ["--data", str(data_config), "--metrics", "l1_target", "ssim_input", "--seeds", "2", "--device", "cpu"]
    evaluate.main(["--config", str(copy_config(tmp_path)), *given, "--out", str(tmp_path / "editor")])
    evaluate.main(["--images", str(tmp_path / "pictures"), *given, "--out", str(tmp_path / "images")])
    ours, theirs = (read_rows(tmp_path / name / "samples.jsonl") for name in ("editor", "images"))
    for one, other in zip(ours, theirs, strict=True):
        assert (one.key, one.seed) == (other.key, other.seed)
        assert one.values == pytest.approx(other.values, abs=0.01)  # they are rounded to 8 bits
    assert [row.text for row in theirs if row.text] == ["a text"]
    report = report_of(tmp_path / "images")
    assert report["images"] == {"folder": str(tmp_path / "pictures"), "pictures": 10, "texts": 1}
    assert report["response_source"] == "generated"


def test_a_picture_that_is_not_there_is_counted(data_config: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", (0,), without=("sample0-002",))
    given = ["--images", str(tmp_path / "pictures"), "--data", str(data_config), "--metrics", "l1_target"]
    evaluate.main([*given, "--out", str(tmp_path / "out")])
    metric = report_of(tmp_path / "out")["metrics"]["l1_target"]
    assert (metric["n"], metric["skipped"]) == (4, {"no_picture": 1})


def test_predictions_of_a_run_are_such_a_folder(data_config: Path, tmp_path: Path) -> None:
    batch = random_batch(5)
    writer: Any = PredictionWriter(tmp_path / "predictions")
    writer.write_on_batch_end(None, None, NoisyCopy(0.1)(batch, sample_generators(0, batch["key"])), None, batch, 0, 0)
    given = ["--data", str(data_config), "--metrics", "l1_input", "--out", str(tmp_path / "out")]
    evaluate.main(["--images", str(tmp_path / "predictions"), *given])
    assert report_of(tmp_path / "out")["metrics"]["l1_input"]["n"] == 5


def test_pictures_of_other_samples_are_refused(data_config: Path, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "pictures" / "another.png")
    given = ["--images", str(tmp_path / "pictures"), "--data", str(data_config), "--metrics", "l1_target"]
    with pytest.raises(SystemExit, match=r"--images .*: no picture of any sample, such as 'sample0-000'"):
        evaluate.main([*given, "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_samples_that_share_a_key_cannot_share_a_picture(tmp_path: Path) -> None:
    samples = random_samples(2)
    for name in ("a", "b"):
        write_data(tmp_path / name, samples if name == "a" else [{**samples[1], "key": samples[0]["key"]}])
    write_pictures(tmp_path / "pictures", (0,))
    path = tmp_path / "data.yaml"
    arguments = {"test": [{"path": str(tmp_path / name / "test")} for name in ("a", "b")], "eval_batch_size": 2}
    section = {"class_path": "datamodules.shard_data.ShardData", "init_args": arguments}
    path.write_text(yaml.safe_dump({"data": section}))
    given = ["--images", str(tmp_path / "pictures"), "--data", str(path), "--metrics", "l1_target"]
    with pytest.raises(SystemExit, match="several samples of the split have the key 'sample0-000'"):
        evaluate.main([*given, "--out", str(tmp_path / "out")])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--config", "no.yaml"], "no.yaml: cannot be read"),
        (["--images", "no"], "--images no: no such folder"),
        (["--images", "pictures", "--seeds", "2"], "no picture of seed 1, found seeds 0"),
        (["--images", "pictures", "--no-ema"], "--no-ema: only a run has an average"),
        (["--images", "pictures", "--sampling", "num_steps=2"], "FolderOfPictures has nothing to set; leave it out"),
        (["--images", "pictures", "--layered"], "--layered: FolderOfPictures does not edit in layers"),
        (["--config", "copy.yaml", "--sampling", "steps=2"], "expected NAME=VALUE with one of factor, num_steps"),
        (["--config", "copy.yaml", "--metrics", "no.such.Metric"], "metrics: cannot load 'no.such.Metric'"),
        (["--checkpoint", "pictures"], "no checkpoint at pictures"),
    ],
)
def test_what_cannot_be_scored_is_one_line(
    given: list[str], message: str, data_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_config(tmp_path)
    write_pictures(tmp_path / "pictures", (0,))
    with pytest.raises(SystemExit, match=message) as stopped:
        evaluate.main(["--data", str(data_config), "--metrics", "l1_target", "--out", "out", *given])
    assert str(stopped.value).startswith("error: ") and "\n" not in str(stopped.value)
    assert not (tmp_path / "out").exists()


def test_a_metric_by_its_class_path_is_scored_and_reported_under_its_name(
    data_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "loud.yaml"
    path.write_text(yaml.safe_dump({"editor": {"class_path": "tests.mmig.evaluation.test_without_run.LoudCopy"}}))
    given = ["--config", str(path), "--data", str(data_config), "--metrics", "l1_input", LOUDNESS]
    evaluate.main([*given, "--out", str(tmp_path / "asked")])
    loudness = report_of(tmp_path / "asked")["metrics"]["loudness"]
    assert (loudness["class_path"], loudness["higher_is_better"], loudness["n"]) == (LOUDNESS, False, 5)
    assert "loudness \u2193" in capsys.readouterr().out
    rows = read_rows(tmp_path / "asked" / "samples.jsonl")
    assert [list(row.values) for row in rows] == [["l1_input", "loudness"]] * 5


def test_metrics_that_an_editor_declares_are_scored_unless_others_are_asked_for(
    data_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "loud.yaml"
    path.write_text(yaml.safe_dump({"editor": {"class_path": "tests.mmig.evaluation.test_without_run.LoudCopy"}}))
    given = ["--config", str(path), "--data", str(data_config)]
    evaluate.main([*given, "--out", str(tmp_path / "all")])
    assert "caption_accuracy, reader (give --judge CLASS_PATH)" in caplog.text
    evaluate.main([*given, "--metrics", "l1_input", "--out", str(tmp_path / "asked")])
    assert list(report_of(tmp_path / "all")["metrics"])[-1] == "loudness"
    assert list(report_of(tmp_path / "asked")["metrics"]) == ["l1_input"]


class LoudCopy(NoisyCopy):
    """Declares a metric, and gives what it reads."""

    metrics = (LOUDNESS, "tests.mmig.metrics.test_suite.Reader")

    def __call__(self, batch: Any, generator: Any) -> Any:
        output = super().__call__(batch, generator)
        output.extras["level"] = torch.ones(len(batch["key"]))
        return output


def _rank(rank: int, arguments: list[str], port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    evaluate.main(arguments)


def _on_two_ranks(arguments: list[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_rank, (arguments, port), nprocs=2, start_method="fork")


@pytest.mark.parametrize("kind", ["config", "images"])
def test_two_ranks_score_what_one_does(kind: str, data_config: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "pictures", (0,), without=("sample0-003",))
    named = {"config": copy_config(tmp_path), "images": tmp_path / "pictures"}[kind]
    given = [f"--{kind}", str(named), "--data", str(data_config), "--metrics", "l1_target", "--device", "cpu"]
    evaluate.main([*given, "--out", str(tmp_path / "one")])
    _on_two_ranks([*given, "--out", str(tmp_path / "two")])
    one, two = (read_rows(tmp_path / name / "samples.jsonl") for name in ("one", "two"))
    assert len(one) == 5 and [_without_values(row) for row in one] == [_without_values(row) for row in two]
    for ours, theirs in zip(one, two, strict=True):
        assert ours.values == pytest.approx(theirs.values, abs=1e-6)
    assert report_of(tmp_path / "one").keys() == report_of(tmp_path / "two").keys()


def _without_values(row: SampleRow) -> dict[str, Any]:
    return {name: value for name, value in row.to_dict().items() if name != "values"}
