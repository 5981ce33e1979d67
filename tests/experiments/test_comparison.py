"""Rows of a comparison are trained and scored alike, and what is there is not done again."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from experiments import comparison
from experiments.comparison import Arm, main, table
from mmig.evaluation.protocol import Protocol, read_protocol

BASE = """
model:
  class_path: mmig.methods.instruct_pix2pix.module.InstructPix2PixModule
  init_args:
    optimizer: {lr: 1.0e-3}
    loss_weights: {sdm: 1.0}
    backbone: assets/tiny/stable-diffusion
    unet:
      {block_out_channels: [16, 32], layers_per_block: 1, attention_heads: 2, norm_num_groups: 8, sample_size: 16}
    sampling: {num_steps: 1, guidance_scale: 1.5, image_guidance_scale: 1.2}
data:
  class_path: datamodules.tinyworld.data.TinyWorldData
  init_args: {level: plain, train_count: 16, val_count: 4, test_count: 4, global_batch_size: 4, num_workers: 0}
trainer: {accelerator: cpu, devices: 1, max_steps: 2, limit_val_batches: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A comparison of two rows."""
    base = yaml.safe_load(BASE)
    base["data"]["init_args"]["root"] = str(tmp_path / "world")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "base.yaml").write_text(yaml.safe_dump(base), encoding="utf-8")
    (tmp_path / "small" / "response.yaml").write_text("model: {init_args: {text: response}}", encoding="utf-8")
    (tmp_path / "small" / "broken.yaml").write_text("model: {init_args: {text: nonsense}}", encoding="utf-8")
    (tmp_path / "world.yaml").write_text(yaml.safe_dump({"data": base["data"]}), encoding="utf-8")
    scoring = {"metrics": ["joint", "success"], "judge": "datamodules.tinyworld.judge.TinyWorldJudge"}
    grid = {"guidance_scale": [1.0, 1.5]}
    parts = {
        name: {"data": str(tmp_path / "world.yaml"), **more}
        for name, more in (("world", {}), ("scales", {"grid": grid}))
    }
    protocol = {"title": "small", "scoring": scoring, "parts": parts}
    (tmp_path / "small" / "protocol.yaml").write_text(yaml.safe_dump(protocol, sort_keys=False), encoding="utf-8")
    return tmp_path


def words(folder: Path, *more: str) -> list[str]:
    return [str(folder / "small"), *more, "--seeds", "1", "--limit", "2", "--runs", str(folder / "runs")]


def protocol_of(folder: Path) -> Protocol:
    return read_protocol(folder / "small" / "protocol.yaml")


def shown(arms: list[Arm], protocol: Protocol) -> str:
    written = io.StringIO()
    Console(file=written, width=200).print(table(arms, protocol))
    return written.getvalue()


def test_commands_differ_in_row_and_seed_alone(folder: Path) -> None:
    one, two = (Arm(folder / "small" / f"{name}.yaml", seed, folder) for name, seed in (("response", 0), ("base", 2)))
    assert one.name == "small-response-0"
    (training,), (other,) = one.trainings([]), two.trainings(["--trainer.max_steps", "9"])
    assert training.count("--config") == 2 and other.count("--config") == 1
    assert other[-2:] == ["--trainer.max_steps", "9"] and other.count("2") == 3
    world, scales = protocol_of(folder).parts
    first, second = (arm.evaluation(world, 7) for arm in (one, two))
    assert {a for a, b in zip(first, second, strict=True) if a != b} == {
        str(folder / "small-response-0"),
        str(folder / "small-response-0" / "world"),
    }
    assert one.folders(world) == {"world": folder / "small-response-0" / "world"}
    of_grid = folder / "small-response-0" / "scales"
    assert one.folders(scales) == {
        "scales guidance_scale=1.0": of_grid / "guidance_scale=1.0",
        "scales guidance_scale=1.5": of_grid / "guidance_scale=1.5",
    }


def test_a_row_may_start_from_a_first_training(folder: Path) -> None:
    (folder / "small" / "first").mkdir()
    (folder / "small" / "first" / "response.yaml").write_text("trainer: {max_steps: 1}")
    first, then = Arm(folder / "small" / "response.yaml", 0, folder).trainings(["--trainer.max_steps", "9"])
    assert first.count("--config") == 3 and "small-response-0-first" in first and "--init_from" not in first
    assert then.count("--config") == 2 and then[then.index("--init_from") + 1] == str(folder / "small-response-0-first")
    assert then[-2:] == ["--trainer.max_steps", "9"] and "9" not in first
    assert len(Arm(folder / "small" / "base.yaml", 0, folder).trainings([])) == 1


def test_unknown_rows_and_a_folder_without_a_base_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for given, said in (
        (words(folder, "--rows", "better"), "--rows better: "),
        ([str(folder)], "expected a base.yaml and rows beside it"),
        (words(folder, "--rows", "protocol"), "--rows protocol: "),
        (words(folder, "--parts", "nothing"), "--parts nothing: the protocol protocol has world, scales"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(given)
        assert said in f"{ended.value} {capsys.readouterr().err}"


def test_the_table_has_means_and_seeds(folder: Path) -> None:
    arms = [Arm(folder / "small" / "base.yaml", seed, folder) for seed in (0, 1, 2)]
    protocol = protocol_of(folder)
    for arm, joint in zip(arms[:2], ((1.0, 0.0), (1.0, 1.0)), strict=True):
        evaluation = arm.folders(protocol.parts[0])["world"]
        evaluation.mkdir(parents=True)
        rows = [
            {"key": str(number), "seed": 0, "edit_type": "add", "values": {"joint": value}}
            for number, value in enumerate(joint)
        ]
        (evaluation / "samples.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (evaluation / "metrics.json").write_text("{}")
    assert "75.0 (50.0, 100.0)" in shown(arms, protocol)
    assert "base" in shown(arms[2:], protocol) and "-" in shown(arms[2:], protocol)


@pytest.mark.slow
def test_rows_are_trained_and_scored_once_and_a_broken_one_stops_no_other(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words(folder, "--rows", "broken", "response"))
    assert ended.value.code == 1
    said = capsys.readouterr().out
    assert "small-response-1: done" in said and "small-broken-1: Command" in said
    assert "Expected a typing.Literal" in (folder / "runs" / "small-broken-1.log").read_text()
    report = json.loads((folder / "runs" / "small-response-1" / "world" / "metrics.json").read_text())
    assert report["metrics"]["joint"]["n"] == 2
    assert (folder / "runs" / "small-response-1" / "scales" / "guidance_scale=1.5" / "metrics.json").is_file()
    monkeypatch.setattr(comparison.subprocess, "run", None)  # nothing is left to do
    main(words(folder, "--rows", "response"))
