"""Rows of a comparison are trained and scored alike, and what is there is not done again."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from experiments import comparison
from experiments.arms import Arm
from experiments.comparison import (
    check_point,
    chosen_point,
    main,
    read_protocols,
    rounds,
    start_of,
    table,
    waves,
    with_asked,
)
from mmig.evaluation.protocol import Protocol, read_protocol
from mmig.evaluation.settings import SettingsError

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
    Console(file=written, width=200).print(table(arms, {arm.row: protocol for arm in arms}))
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


def test_phases_are_trained_in_their_order_each_on_those_before(folder: Path) -> None:
    written = {
        "part": {"configs": ["base.yaml"], "options": {"trainer.max_steps": 3}},
        "own": {"backbones": {"unet": "part"}, "init_from": "part"},
    }
    (folder / "small" / "phases.yaml").write_text(yaml.safe_dump({"response": written}, sort_keys=False))
    first, own = Arm(folder / "small" / "response.yaml", 2, folder).trainings(["--trainer.max_steps", "9"])
    part = str(folder / "small-response-2-part")
    assert first[first.index("--name") + 1] == "small-response-2-part" and first[-2:] == ["--trainer.max_steps", "3"]
    assert first.count("--config") == 1 and first[first.index("--data.init_args.seed") + 1] == "2"
    assert own.count("--config") == 2 and own[own.index("--name") + 1] == "small-response-2"
    assert own[own.index("--model.init_args.unet") + 1] == own[own.index("--init_from") + 1] == part
    assert own[-2:] == ["--trainer.max_steps", "9"]
    assert len(Arm(folder / "small" / "base.yaml", 0, folder).trainings([])) == 1


@pytest.mark.parametrize(
    ("phases", "said"),
    [
        ({"own": {"init_from": "part"}}, "response.own: 'part' is none of the phases before it (none)"),
        ({"part": {"configs": ["base.yaml"]}}, "response: expected 'own' as the last phase, found 'part'"),
        ({"part": {}, "own": {}}, "response.part.configs: expected some, found none"),
        ({"own": {"configs": ["base.yaml"]}}, "response.own.configs: expected none, for they are the row's"),
        ({"part": {"configs": ["x.yaml"]}, "own": {}}, "response.part.configs: x.yaml is neither in "),
        (
            {"part": {"steps": 3}},
            "response.part: expected a mapping with some of backbones, configs, init_from, options",
        ),
    ],
)
def test_phases_that_cannot_be_are_one_line_before_anything_trains(
    phases: dict, said: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "small" / "phases.yaml").write_text(yaml.safe_dump({"response": phases}, sort_keys=False))
    with pytest.raises(SystemExit) as ended:
        main(words(folder, "--rows", "response"))
    assert said in f"{ended.value} {capsys.readouterr().err}" and not (folder / "runs").exists()


def test_a_row_may_have_a_protocol_of_its_own(folder: Path) -> None:
    arms = [Arm(folder / "small" / f"{row}.yaml", 0, folder) for row in ("base", "response")]
    (folder / "small" / "protocol").mkdir()
    own = {"title": "own", "scoring": {"metrics": ["joint"]}, "parts": {"world": {"data": str(folder / "world.yaml")}}}
    (folder / "small" / "protocol" / "response.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    found = read_protocols(arms, ["scales"])
    asked = [[part.name for part in with_asked(found[arm.row], ["scales"]).parts] for arm in arms]
    assert asked == [["scales"], []]
    assert arms[1].evaluation(found[arms[1].row].parts[0], 5)[2] == str(folder / "small" / "protocol" / "response.yaml")
    assert table(arms, found).row_count == 3
    assert [column.header for column in table(arms, found).columns] == ["", "base", "response"]
    with pytest.raises(SettingsError, match="--parts nothing: the protocol protocol has world, scales"):
        read_protocols(arms, ["nothing"])


GRID = {"guidance_scale": [1.0, 1.5]}


def choosing(folder: Path) -> tuple[list[Arm], Protocol]:
    """Two arms of a row, best on average at 1.5 on validation, though one of them is not."""
    file = folder / "small" / "protocol.yaml"
    protocol = yaml.safe_load(file.read_text())
    data = protocol["parts"]["world"]["data"]
    protocol["parts"] = {
        "world": {"data": data},
        "val": {"data": data, "grid": GRID},
        "same": {"data": data, "grid": GRID},
        "steps": {"data": data, "grid": {"num_steps": [1, 2]}},
    }
    file.write_text(yaml.safe_dump(protocol, sort_keys=False))
    arms = [Arm(folder / "small" / "base.yaml", seed, folder) for seed in (0, 1)]
    for arm, values in zip(arms, ((0.5, 0.4), (0.0, 1.0)), strict=True):
        for scale, value in zip(GRID["guidance_scale"], values, strict=True):
            write_scores(arm.runs / arm.name / "val" / f"guidance_scale={scale}", {"guidance_scale": scale}, value)
    return arms, protocol_of(folder)


def write_scores(evaluation: Path, sampling: dict[str, float], value: float) -> None:
    evaluation.mkdir(parents=True)
    row = {"key": "a", "seed": 0, "edit_type": "add", "values": {"joint": value}}
    (evaluation / "samples.jsonl").write_text(json.dumps(row))
    (evaluation / "metrics.json").write_text(json.dumps({"sampling": sampling}))


def test_settings_are_chosen_on_validation_over_all_seeds_for_what_has_no_grid_of_them(folder: Path) -> None:
    arms, protocol = choosing(folder)
    first, later = rounds(protocol)
    assert [part.name for part in first.parts] == ["val", "same"]
    assert [part.name for part in later.parts] == ["world", "steps"]
    point = chosen_point(arms, protocol)
    assert point == {"guidance_scale": 1.5}
    assert arms[0].evaluation(later.parts[0], 5, point)[-2:] == ["--sampling", "guidance_scale=1.5"]
    with pytest.raises(ValueError, match="expected evaluations at the points of a grid in every run, found none"):
        chosen_point([*arms, Arm(arms[0].row, 2, folder)], protocol)


def test_what_was_scored_at_another_point_is_refused(folder: Path) -> None:
    arms, protocol = choosing(folder)
    (world, _), point = rounds(protocol)[1].parts, chosen_point(arms, protocol)
    write_scores(arms[0].runs / arms[0].name / "world", {"guidance_scale": 1.5}, 1.0)
    check_point(arms[0], world, point)
    write_scores(arms[1].runs / arms[1].name / "world", {"guidance_scale": 1.0}, 1.0)
    with pytest.raises(ValueError, match=r"was scored at guidance_scale=1\.0, validation chooses guidance_scale=1\.5"):
        check_point(arms[1], world, point)


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


def test_a_row_starts_from_the_run_of_another_with_its_seed(folder: Path) -> None:
    small = folder / "small"
    phases = {"response": {"own": {"row": "broken", "options": {"data.init_args.seed": "3{seed}"}}}}
    (small / "phases.yaml").write_text(yaml.safe_dump(phases), encoding="utf-8")
    arm = Arm(small / "response.yaml", 2, folder / "runs")
    (command,) = arm.trainings([])
    assert command[command.index("--init_from") + 1] == str(folder / "runs" / "small-broken-2")
    assert command[-2:] == ["--data.init_args.seed", "32"]
    assert arm.start == small / "broken.yaml" and start_of(arm) == "small-broken-2"


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"own": {"row": "nothing"}}, "expected another row of .*, found 'nothing'"),
        ({"own": {"row": "response"}}, "expected another row of .*, found 'response'"),
        (
            {"first": {"configs": ["base.yaml"]}, "own": {"row": "broken", "init_from": "first"}},
            "row 'broken' and init_from 'first': expected one of them",
        ),
        (
            {"first": {"configs": ["base.yaml"], "row": "base"}, "own": {"row": "broken"}},
            "own.row: expected one other row for all phases, found 'base' before",
        ),
    ],
)
def test_a_row_that_cannot_be_started_from_is_refused(folder: Path, entry: dict, said: str) -> None:
    (folder / "small" / "phases.yaml").write_text(yaml.safe_dump({"response": entry}), encoding="utf-8")
    with pytest.raises(SettingsError, match=said):
        Arm(folder / "small" / "response.yaml", 0, folder).trainings([])


def test_rows_that_start_from_one_another_are_refused(folder: Path) -> None:
    phases = {"response": {"own": {"row": "broken"}}, "broken": {"own": {"row": "response"}}}
    (folder / "small" / "phases.yaml").write_text(yaml.safe_dump(phases), encoding="utf-8")
    jobs = [(Arm(folder / "small" / f"{name}.yaml", 0, folder), protocol_of(folder), {}) for name in phases]
    with pytest.raises(ValueError, match=r"phases\.yaml: small-broken-0, small-response-0 start from one another"):
        waves(jobs)
