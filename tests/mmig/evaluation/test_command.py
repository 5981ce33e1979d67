import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
import yaml
from PIL import Image

import evaluate
from mmig.evaluation.rows import read_rows
from mmig.metrics.suite import METRICS
from mmig.run.scoring import settings_path
from tests.mmig.evaluation.support import random_samples, write_data
from tests.tiny_fixtures import build_open_clip
from tests.tiny_vision import build_dino, build_lpips_backbone

JUDGE = "tests.mmig.evaluation.support.BrightJudge"


@pytest.fixture(scope="module")
def finished(run_directory: Path, data_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an evaluation with every metric and two seeds."""
    out = tmp_path_factory.mktemp("evaluation")
    clip, dino = str(build_open_clip(out / "models/clip")), str(build_dino(out / "models/dino"))
    lpips = str(build_lpips_backbone(out / "models/squeeze.pth", "squeezenet1_1"))
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--seeds", "2", "--out", str(out)]
    evaluate.main(
        [
            *given,
            "--clip",
            clip,
            "--judge",
            JUDGE,
            "--device",
            "cpu",
            "--dino",
            dino,
            "--lpips",
            "squeeze",
            lpips,
            "--features",
            "dino",
        ]
    )
    return out


def test_metrics_json_holds_value_interval_count_and_skips_of_every_metric(finished: Path) -> None:
    report = json.loads((finished / "metrics.json").read_text())
    assert set(report["metrics"]) == set(METRICS)
    l1 = report["metrics"]["l1_target"]
    assert l1["low"] <= l1["value"] <= l1["high"]
    assert (l1["n"], l1["skipped"]) == (5, {})
    assert report["metrics"]["clip_response_similarity"]["skipped"] == {"no_response": 10}
    assert report["metrics"]["clip_response_similarity"]["value"] is None
    assert set(l1["per_edit_type"]) == {"add", "recolour"}
    fid = report["metrics"]["fid"]
    assert 0 < fid["low"] <= fid["value"] <= fid["high"]
    assert (fid["n"], fid["skipped"], fid["per_edit_type"], fid["higher_is_better"]) == (5, {}, {}, False)


def test_metrics_json_says_what_the_numbers_depend_on(finished: Path) -> None:
    report = json.loads((finished / "metrics.json").read_text())
    assert report["response_source"] == "none"
    assert report["seeds"] == [0, 1]
    assert report["judge"] == JUDGE
    assert report["weights"] == "ema"
    assert report["checkpoint"].endswith("step-00000003.ckpt")
    assert report["clip"]["preprocessing"]["resize"] == "squash"
    assert (report["dino"]["class"], report["lpips"]["backbone"]) == ("ViTModel", "squeezenet1_1")
    assert report["features"] == {"name": "dino", "unit_length": True}
    assert all(len(report[name]["fingerprint"]) == 64 for name in ("clip", "dino", "lpips"))
    assert report["versions"]["torch"]


def test_the_mean_is_that_of_the_samples_file(finished: Path) -> None:
    rows = read_rows(finished / "samples.jsonl")
    assert len(rows) == 10
    report = json.loads((finished / "metrics.json").read_text())
    expected = np.mean([row.values["ssim_target"] for row in rows])
    assert report["metrics"]["ssim_target"]["value"] == pytest.approx(expected)


def test_the_grid_shows_a_row_a_sample(finished: Path) -> None:
    with Image.open(finished / "grid.png") as grid:
        assert grid.height > 4 * 192


def test_nothing_temporary_is_left(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        *(
            "metrics.json",
            "samples.jsonl",
            "samples.parquet",
            "grid.png",
            "pictures",
            "report.html",
            "table.md",
            "table.tex",
            "models",
        )
    }


def test_ema_weights_are_used_unless_told_otherwise(
    run_directory: Path, data_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--metrics", "l1_input"]
    evaluate.main([*given, "--out", str(tmp_path / "ema")])
    evaluate.main([*given, "--out", str(tmp_path / "raw"), "--no-ema", "--compare", str(tmp_path / "ema")])
    values = [
        json.loads((tmp_path / name / "metrics.json").read_text())["metrics"]["l1_input"]["value"]
        for name in ("ema", "raw")
    ]
    assert values[0] < 0.05 < values[1]
    assert "excluded" in capsys.readouterr().out


def test_batch_size_and_limit_do_not_change_a_sample(run_directory: Path, data_config: Path, tmp_path: Path) -> None:
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--metrics", "l1_target"]
    evaluate.main([*given, "--out", str(tmp_path / "all"), "--batch-size", "5"])
    evaluate.main([*given, "--out", str(tmp_path / "some"), "--limit", "3"])
    whole = {row.key: row.values["l1_target"] for row in read_rows(tmp_path / "all" / "samples.jsonl")}
    some = {row.key: row.values["l1_target"] for row in read_rows(tmp_path / "some" / "samples.jsonl")}
    assert len(some) == 3
    assert some == pytest.approx({key: whole[key] for key in some}, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "clip_scores"], "metrics: 'clip_scores' is unknown; did you mean 'clip_score'?"),
        (["--metrics", "clip_score"], "--clip"),
        (["--judge", "no.such.Judge"], "cannot load 'no.such.Judge'"),
        (["--preprocessing", "squish", "--clip", "tiny"], "'squish' is unknown"),
        (["--split", "unseen_pairs"], "unseen_pairs"),
        (["--split", "val"], "no split 'val'"),
        (["--clip", "/no/such/folder"], "no such folder"),
        (["--metrics", "dino_input"], "metric 'dino_input' needs a DINO model; give --dino"),
        (["--dino", "/no/such/folder"], "image_model: the folder /no/such/folder does not exist"),
        (["--metrics", "fid"], "metric 'fid' needs features of images; give --features NAME [WEIGHTS]"),
        (["--features", "dino"], "features: 'dino' are those of --dino FOLDER_OR_HUB_ID; give that too"),
        (["--features", "resnet1"], "torchvision has no model 'resnet1'"),
        (["--features", "fid_inception"], "fid_inception needs the file weights-inception-2015-12-05"),
        (["--lpips", "alexnet"], "lpips: 'alexnet' is unknown; expected one of alex, vgg, squeeze"),
        (["--lpips", "alex", "/no/such/file.pth"], "alexnet: weights: /no/such/file.pth is no file"),
        (["--device", "banana"], "--device banana: cannot be used"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_leaves_no_result(
    options: list[str], message: str, run_directory: Path, data_config: Path, tmp_path: Path
) -> None:
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        evaluate.main([*given, *options])
    assert message in str(stopped.value)
    assert str(stopped.value).startswith("error: ")
    assert "\n" not in str(stopped.value)
    assert not (tmp_path / "out" / "metrics.json").exists()


@pytest.mark.parametrize("option", ["--clip", "--lpips", "--features"])
def test_a_model_has_one_name_of_weights(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--images", "a", "--data", "b", "--out", "c", option, "name", "weights", "more"])
    assert f"{option} takes a name and at most one name of weights" in capsys.readouterr().err


def test_an_unreadable_checkpoint_is_named(run_directory: Path, data_config: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("model: {}")
    (tmp_path / "checkpoints").mkdir()
    whole = (run_directory / "checkpoints" / "step-00000003.ckpt").read_bytes()
    (tmp_path / "checkpoints" / "step-00000001.ckpt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(SystemExit, match=r"cannot read checkpoint .*step-00000001"):
        evaluate.main(["--checkpoint", str(tmp_path), "--data", str(data_config), "--out", str(tmp_path / "out")])


@pytest.mark.parametrize("text", [None, "model: {}", "data: {class_path: no.such.Data}", "a: [b"])
def test_unusable_data_configs_are_named(text: str | None, run_directory: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SystemExit, match=r"error: .*data\.yaml"):
        evaluate.main(["--checkpoint", str(run_directory), "--data", str(path), "--out", str(tmp_path / "out")])


def test_an_old_result_does_not_survive_a_new_evaluation_that_fails(
    run_directory: Path, data_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics.json").write_text("{}")

    def full(path: Path, value: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("mmig.evaluation.report.write_json", full)
    with pytest.raises(SystemExit, match="disk full"):
        evaluate.main(["--checkpoint", str(run_directory), "--data", str(data_config), "--out", str(tmp_path)])
    assert not (tmp_path / "metrics.json").exists()


@pytest.mark.parametrize("program", ["evaluate.py", "edit.py"])
def test_help_imports_nothing_heavy(program: str, root: Path) -> None:
    code = f"import sys, runpy; sys.argv = ['{program}', '--help']\n"
    code += f"try: runpy.run_path('{program}', run_name='__main__')\n"
    code += "except SystemExit: pass\nsys.exit(bool({'torch', 'numpy', 'yaml', 'lightning'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("program", ["evaluate.py", "edit.py"])
def test_help_answers_within_two_seconds(program: str, root: Path) -> None:
    start = time.monotonic()
    subprocess.run([sys.executable, program, "--help"], cwd=root, capture_output=True, check=True)
    assert time.monotonic() - start < 2


def _rank(rank: int, world_size: int, arguments: list[str], port: int) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    evaluate.main(arguments)


@pytest.mark.parametrize(("world_size", "limit"), [(2, None), (2, 3), (3, None), (3, 2)])
def test_several_processes_find_what_one_finds(
    run_directory: Path, tmp_path: Path, world_size: int, limit: int | None
) -> None:
    samples = random_samples(5)
    samples[1]["source"] = b"\x89PNG\r\n\x1a\n, and no picture"  # another sample stands in for it
    data = write_data(tmp_path / "data", samples, max_bad_fraction=1.0)
    given = ["--checkpoint", str(run_directory), "--data", str(data), "--metrics", "l1_target", "--device", "cpu"]
    given += [] if limit is None else ["--limit", str(limit)]
    evaluate.main([*given, "--out", str(tmp_path / "one")])
    arguments = (world_size, [*given, "--out", str(tmp_path / "more")], _free_port())
    mp.start_processes(_rank, arguments, nprocs=world_size, start_method="fork")
    one, more = (read_rows(tmp_path / name / "samples.jsonl") for name in ("one", "more"))
    assert [row.key for row in one] == [row.key for row in more]
    assert len(one) == (limit or len(samples) - 1)  # without a limit its stand-in comes twice and counts once
    values = [[row.values["l1_target"] for row in rows] for rows in (one, more)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    reports = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("one", "more")]
    pictures = [{path.name for path in (tmp_path / name / "pictures").glob("*.png")} for name in ("one", "more")]
    assert pictures[0] == pictures[1] == {f"{row.key}.png" for row in one}
    assert reports[0]["stream_faults"] == reports[1]["stream_faults"] != {}


def test_settings_of_the_small_world_name_metrics_that_exist(root: Path) -> None:
    path = root / settings_path("datamodules.tinyworld.data.TinyWorldData")
    assert set(yaml.safe_load(path.read_text())["metrics"]) <= set(METRICS)


def test_it_says_which_settings_it_looked_for_and_what_is_not_scored(
    run_directory: Path, data_config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--out", str(tmp_path), "--limit", "1"]
    evaluate.main(given)
    assert "there is no configs/evaluation/shard_data.yaml, relative to" in caplog.text
    (said,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("not scored")]
    scored = json.loads((tmp_path / "metrics.json").read_text())["metrics"].keys()
    assert {name for name in METRICS if name in said} == METRICS.keys() - scored
    assert "clip_image_similarity_reference (give --clip NAME [WEIGHTS])" in said
    assert "caption_accuracy (give --judge CLASS_PATH)" in said
    assert "dino_input, dino_target (give --dino FOLDER_OR_HUB_ID)" in said
    assert "lpips_input, lpips_target (give --lpips NAME [WEIGHTS])" in said
    assert said.endswith("fid, kid (give --features NAME [WEIGHTS])")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
