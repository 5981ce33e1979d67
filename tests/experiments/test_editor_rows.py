"""Rows of a comparison that are editors: nothing of their own trains, what is the same for all seeds is scored once."""

import argparse
import json
from pathlib import Path

import pytest
import yaml

from datamodules.tinyworld.contents import ContentWorld
from datamodules.tinyworld.prompt_samples import PROMPTS
from datamodules.tinyworld.write import write_split
from experiments.arms import Arm
from experiments.comparison import chosen, main, read_protocols, waves
from experiments.phases import read_phases
from mmig.evaluation.settings import SettingsError
from tests.test_configs import ParsedError, ParseOnly

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "configs/results/styleclip"


def test_a_mapper_is_trained_for_every_prompt_and_edits_what_asks_for_it(tmp_path: Path) -> None:
    arm = Arm(FOLDER / "mapper.yaml", 2, tmp_path)
    trained = {}
    for command in arm.trainings(["--trainer.max_steps", "9"]):
        with pytest.raises(ParsedError) as caught:
            ParseOnly(command[1:])
        merged = caught.value.args[0]
        assert merged["model"]["init_args"]["seed"] == merged["data"]["init_args"]["seed"] == 2
        assert merged["trainer"]["max_steps"] == 1000
        trained[merged["model"]["init_args"]["prompt"]] = str(tmp_path / command[command.index("--name") + 1])
    assert sorted(trained) == sorted(prompt.text for prompt in PROMPTS.values())
    arm.write_editor()
    written = yaml.safe_load((tmp_path / arm.name / "editor.yaml").read_text(encoding="utf-8"))
    assert written["editor"]["init_args"]["mappers"] == trained


def test_only_rows_with_marks_differ_by_seed(tmp_path: Path) -> None:
    found = {name: Arm(FOLDER / f"{name}.yaml", 0, tmp_path).has_seeds for name in ("mapper", "latent", "inversion")}
    assert found == {"mapper": True, "latent": False, "inversion": True}
    assert Arm(FOLDER / "latent.yaml", 0, tmp_path).trainings([]) == []


@pytest.mark.parametrize(
    "rows", sorted((ROOT / "configs/results").glob("*/protocol.yaml")), ids=lambda file: file.parent.name
)
def test_all_rows_of_every_comparison_can_be_laid_out(rows: Path, tmp_path: Path) -> None:
    arms = [Arm(row, 0, tmp_path) for row in chosen(rows.parent, None, argparse.ArgumentParser())]
    protocols = read_protocols(arms, [])
    laid = waves([(arm, protocols[arm.row], {}) for arm in arms])
    assert sorted(arm.name for wave in laid for arm, *_ in wave) == sorted(arm.name for arm in arms)


def test_an_editor_has_no_training_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "phases.yaml").write_text("mapper: {own: {}}", encoding="utf-8")
    with pytest.raises(SettingsError, match="mapper: expected no 'own', for the row is an editor"):
        read_phases(tmp_path, "mapper", own=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A comparison of one editor, whose strength (none, or all of it) is chosen on validation."""
    for split in ("val", "test"):
        write_split(tmp_path / "prompts" / split, split, 4, ContentWorld("prompts"))
    data = yaml.safe_load((ROOT / "configs/data/prompts.yaml").read_text(encoding="utf-8"))
    splits = {"train": "val", "val": "val", "test": "test"}
    data["data"]["init_args"].update({name: str(tmp_path / "prompts" / split) for name, split in splits.items()})
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    drawing = {"path": "assets/tiny/stable-diffusion", "sampling": {"num_steps": 2, "inversion": True}}
    editor = {"class_path": "mmig.methods.latent_diffusion.pipeline.open_editor", "init_args": drawing}
    part = {"data": str(tmp_path / "prompts.yaml")}
    parts = {"val": part | {"split": "val", "grid": {"strength": [0.0, 1.0]}}, "test": part}
    scoring = {"metrics": ["preservation"], "judge": "datamodules.tinyworld.judge.TinyWorldJudge"}
    files = {"base": {}, "same": {"editor": editor}, "protocol": {"title": "t", "scoring": scoring, "parts": parts}}
    (tmp_path / "small").mkdir()
    for name, values in files.items():
        (tmp_path / "small" / f"{name}.yaml").write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return tmp_path


def test_it_is_scored_once_where_validation_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(folder / "small"), "--seeds", "3", "4", "--limit", "4", "--runs", str(folder / "runs")]
    main(words)
    assert "strength=0.0, chosen on val" in capsys.readouterr().out
    assert [run.name for run in sorted((folder / "runs").iterdir()) if run.is_dir()] == ["small-same-3"]
    scored = folder / "runs" / "small-same-3" / "test" / "metrics.json"
    assert json.loads(scored.read_text(encoding="utf-8"))["sampling"]["strength"] == 0.0
    before = scored.stat().st_mtime_ns
    main(words)
    assert scored.stat().st_mtime_ns == before
