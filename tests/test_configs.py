"""Every configuration is accepted by train.py's parser, and the commands in its header name what exists."""

import importlib
import importlib.util
import re
import shlex
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import yaml

from mmig.base.settings import instantiate
from mmig.run.cli import MMIGCLI

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.yaml"))
MODEL, DATA = "configs/demo/stage1.yaml", "configs/data/tinyworld.yaml"


class ParsedError(Exception):
    """Carries the checked configuration out of the command line before anything is built."""


class ParseOnly(MMIGCLI):
    """train.py's command line up to the point where classes would be instantiated."""

    def before_instantiate_classes(self) -> None:
        super().before_instantiate_classes()
        raise ParsedError(self.resolved_config())


def parse(*configs: str) -> dict[str, Any]:
    options = [word for config in configs for word in ("--config", str(ROOT / config))]
    with pytest.raises(ParsedError) as caught:
        ParseOnly(["fit", *options, "--name", "parsed"])
    return caught.value.args[0]


def by_its_command(config: str) -> dict[str, Any]:
    """The merged configuration of the first training command in a header."""
    lines = (ROOT / config).read_text(encoding="utf-8").splitlines()
    header = "\n".join(line.lstrip("# ") for line in lines if line.startswith("#")).replace("\\\n", " ")
    found = re.search(r"python train\.py (fit [^\n]*)", header)
    assert found
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(found[1])]
    with pytest.raises(ParsedError) as caught:
        ParseOnly(words)
    return caught.value.args[0]


def sections(config: str) -> set[str]:
    return set(yaml.safe_load((ROOT / config).read_text(encoding="utf-8")))


def composition(config: str) -> list[str]:
    """The configs that make a run together with this one: a row of a table differs from the table's base, and the first
    training of a row from the row.
    """
    place = Path(config)
    if place.parent.name == "first":
        return [*composition((place.parent.parent / place.name).as_posix()), config]
    base = place.with_name("base.yaml").as_posix()
    if base in CONFIGS:
        return [base] if config == base else [base, config]
    present = sections(config)
    return [*([] if "model" in present else [MODEL]), *([] if "data" in present else [DATA]), config]


TRAINING = [config for config in CONFIGS if sections(config) & {"model", "data", "trainer"}]


@pytest.mark.parametrize("config", TRAINING)
def test_training_config_is_accepted(config: str) -> None:
    merged = parse(*composition(config))
    own = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))
    for section in {"model", "data"} & set(own):
        if "class_path" in own[section]:
            assert merged[section]["class_path"] == own[section]["class_path"]


def test_nothing_is_used_that_the_next_jsonargparse_will_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning's own use of it is Lightning's to mend."""
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "all")  # else once a process
    with warnings.catch_warnings(record=True, action="always") as caught:
        merged = parse(*composition(MODEL))
        instantiate(L.LightningDataModule, merged["data"])
    ours = [str(said.message) for said in caught if Path(said.filename).is_relative_to(ROOT / "mmig")]
    assert not [text for text in ours if "deprecated" in text]


@pytest.mark.parametrize("config", CONFIGS)
def test_header_says_the_command_and_names_what_exists(config: str) -> None:
    lines = (ROOT / config).read_text(encoding="utf-8").splitlines()
    header = "\n".join(line.lstrip("# ") for line in lines if line.startswith("#")).replace("\\\n", " ")
    assert header, f"{config} has no header comment"
    commands = re.findall(r"\bpython ((?:-m )?[\w./]+)([^\n`]*)", header)
    for program, rest in commands:
        if program.startswith("-m "):
            assert importlib.util.find_spec(program[3:]), f"{config}: no module {program[3:]}"
        else:
            assert (ROOT / program).exists(), f"{config}: no file {program}"
        named = re.findall(r"configs/[\w./-]+\.yaml", rest)
        assert [name for name in named if not (ROOT / name).exists()] == []
    if "model" in sections(config):
        assert any(config in rest for _, rest in commands) or "make demo" in header, (
            f"{config}: no command in its header"
        )


def test_a_demo_stage_runs_by_its_own_configuration() -> None:
    with pytest.raises(ParsedError) as caught:
        ParseOnly(["fit", "--config", str(ROOT / "configs/demo/stage5.yaml")])
    merged = caught.value.args[0]
    assert merged["name"] == "stage5" and merged["data"]["init_args"]["root"] == "data/demo"


def test_a_run_without_any_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    model, data = "mmig.methods.mmig.stages.paper.Stage1", "datamodules.tinyworld.data.TinyWorldData"
    backbones = ["--model.init_args.backbones.diffusion=x", "--model.init_args.backbones.llm=x"]
    with pytest.raises(SystemExit):
        ParseOnly(["fit", "--model", model, *backbones, "--model.init_args.optimizer.lr=1", "--data", data])
    assert capsys.readouterr().err.startswith("error: --name: expected")


STAGES = [config for config in CONFIGS if re.fullmatch(r"configs/(mmig|demo)/stage\d\.yaml", config)]


@pytest.mark.parametrize("config", STAGES)
def test_settings_of_a_stage_are_about_what_it_trains(config: str) -> None:
    model = yaml.safe_load((ROOT / config).read_text(encoding="utf-8"))["model"]
    module, _, name = model["class_path"].rpartition(".")
    stage, settings = getattr(importlib.import_module(module), name), model["init_args"]
    groups = settings["optimizer"].get("groups", {})
    assert {f"mmig.{part}" for part in stage.trained_parts} == {*groups, "mmig.mmsm"}  # MMSM's are those without group
    dropped = settings.get("objective", {}).get("condition_drop", 0.0)
    assert (dropped > 0) == ("unet" in stage.trained_parts)
    assert set(settings.get("loss_weights", stage.counted_losses)) == set(stage.counted_losses)


@pytest.mark.parametrize("options", [["--trainer.max_stepz", "3"], ["--data.init_args.global_batch", "3"]])
def test_an_unknown_key_is_refused_by_name(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(f"fit --config {shlex.quote(str(ROOT / MODEL))} --config {shlex.quote(str(ROOT / DATA))}")
    with pytest.raises(SystemExit) as caught:
        ParseOnly([*words, "--name", "parsed", *options])
    assert caught.value.code != 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and options[0].split(".")[-1] in lines[0]
