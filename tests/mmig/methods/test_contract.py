"""Every method keeps the promises of `contract.py`, and so does the toy, which is one folder of tests."""

import importlib
import json
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
import yaml
from PIL import Image

import edit
import evaluate
from mmig.backbones.fetch import find_references
from mmig.checkpoints.checkpoint import find_checkpoint, load_module
from mmig.evaluation.opening import open_checkpoint
from mmig.evaluation.overrides import with_sampling
from mmig.run.cli import MMIGCLI
from mmig.run.export import export_run
from mmig.training.rng import sample_generators
from mmig.training.turns import keeps_apart
from tests.integration.losses import logged
from tests.mmig.methods.contract import HALF, NUM_SAMPLES, NUM_STEPS, Case, Trial, differing, learned
from tests.mmig.methods.mmig.stages.support import seeing_backbones
from tests.tiny_fixtures import TinyBackbones
from tests.toy_method.samples import write_tone

METHODS = Path(__file__).parents[3] / "mmig" / "methods"
SAVED_AGAIN = 1e-3
"""Largest mean difference of edits before and after an export, of values in [-1,1]; it merges low-rank updates."""


def folders() -> list[str]:
    """Names of the methods."""
    return sorted(folder.parent.name for folder in METHODS.glob("*/__init__.py"))


def cases() -> dict[str, Case]:
    """Every case by the name of its method and its own."""
    modules = {name: f"tests.mmig.methods.{name}.contract" for name in folders()}
    modules["toy"] = "tests.toy_method.contract"
    return {
        f"{method}-{name}": case
        for method, module in modules.items()
        for name, case in importlib.import_module(module).CASES.items()
    }


@pytest.fixture(scope="session")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return seeing_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] * case.repeats) for name, case in cases().items()],
)
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backbones: TinyBackbones) -> Trial:
    """A case with its data and its configuration."""
    return Trial.begin(cases()[request.param], tmp_path_factory.mktemp(request.param), backbones)


@pytest.fixture(scope="module")
def whole(trial: Trial) -> MMIGCLI:
    """The run `whole`, which nobody interrupts."""
    return trial.command("fit", "whole")


def test_every_method_has_cases() -> None:
    assert {name.partition("-")[0] for name in cases()} == {*folders(), "toy"}


def test_it_takes_the_steps_that_it_is_told_down_the_losses_that_are_named(whole: MMIGCLI) -> None:
    assert whole.model.step == whole.trainer.global_step == NUM_STEPS
    assert whole.model.outcome.taken
    assert whole.model.outcome.terms.keys() == whole.model.loss_weights.keys()
    for name in ("loss", *whole.model.loss_weights):
        assert NUM_STEPS - 1 in logged(whole.run_directory, f"train/{name}")


@pytest.mark.usefixtures("whole")
def test_it_resumes_exactly(trial: Trial) -> None:
    trial.command("fit", "resumed", "--trainer.max_steps", str(HALF))
    half = learned(trial.run("resumed"))
    trial.command("fit", "resumed")
    assert differing(learned(trial.run("resumed")), learned(trial.run("whole"))) == []
    assert differing(half, learned(trial.run("whole"))) != []  # it did go on


@pytest.mark.usefixtures("whole")
def test_validation_names_every_loss(trial: Trial) -> None:
    cli = trial.command("validate", "whole")
    found = {name for name, value in cli.trainer.callback_metrics.items() if torch.isfinite(value)}
    assert {"val/loss", *(f"val/{name}" for name in cli.model.loss_weights)} <= found


@pytest.mark.usefixtures("whole")
def test_its_configuration_says_what_it_loads(trial: Trial) -> None:
    section = yaml.safe_load(trial.config.read_text())["model"]
    named = {(each.path, part.name) for each in find_references(section, "model") for part in each.parts}
    module = load_module(trial.run("whole"))
    assert named == {(origin.path, origin.part.name) for origin in module.origins.values()}
    assert module.describe_backbones().keys() <= module.origins.keys()


@pytest.mark.usefixtures("whole")
def test_cached_features_change_nothing(trial: Trial) -> None:
    module = load_module(trial.run("whole"))
    if module.features is None or not module.features.names:
        with pytest.raises(SystemExit, match="no features of its parts can be cached"):
            trial.cache()
        return
    features = trial.cache()
    trial.command("fit", "cached", "--data.init_args.features", str(features))
    whole, cached = learned(trial.run("whole")), learned(trial.run("cached"))
    assert whole.keys() == cached.keys()
    for name, value in whole.items():
        torch.testing.assert_close(cached[name], value, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.usefixtures("whole")
@torch.no_grad()
def test_its_export_edits_as_the_run_does(trial: Trial) -> None:
    if trial.case.export_refused:
        with pytest.raises(ValueError, match=trial.case.export_refused):
            export_run(trial.run("whole"), trial.folder / "exported")
        assert not (trial.folder / "exported").exists()
        return
    folder = export_run(trial.run("whole"), trial.folder / "exported")
    card = (folder / "README.md").read_text()
    assert "whole" in card
    assert all(weight in card for weight in load_module(trial.run("whole")).loss_weights)
    if not trial.case.edits:
        assert not (folder / "editor.yaml").exists()
        return
    batch = trial.batch()
    before, after = (
        opened.editor(batch, sample_generators(0, batch["key"])).images
        for opened in (open_checkpoint(trial.run("whole")), open_checkpoint(folder))
    )
    assert (before - after).abs().mean() < SAVED_AGAIN


@pytest.mark.usefixtures("whole")
def test_its_editor_refuses_settings_that_cannot_be_and_takes_a_number_as_seed(trial: Trial) -> None:
    if not trial.case.edits:
        return
    editor = open_checkpoint(trial.run("whole")).editor
    numbers = [name for name, kind in get_type_hints(type(editor.sampling)).items() if kind in (int, float)]
    for name in numbers:
        with pytest.raises(ValueError, match=f"sampling.{name}: expected .* number"):
            replace(editor.sampling, **{name: math.nan})
    batch = trial.batch()
    editor = with_sampling(editor, trial.case.sampling)
    by_number, by_generator = (editor(batch, seed).images for seed in (5, torch.Generator().manual_seed(5)))
    assert torch.equal(by_number, by_generator)
    for wrong in ("5", True, -1, [5]):
        with pytest.raises(ValueError, match=r"^generator: expected"):
            editor(batch, wrong)


@pytest.mark.usefixtures("whole")
def test_edit_py_edits(trial: Trial, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "picture.png")
    write_tone(tmp_path / "tone.wav")
    inputs = [option.format(folder=tmp_path) for option in trial.case.inputs]
    sampling = ["--sampling", *trial.case.sampling] if trial.case.sampling else []
    out, run = tmp_path / "out.png", str(trial.run("whole"))
    arguments = ["--checkpoint", run, "--instruction", trial.case.instruction, "--out", str(out), *inputs, *sampling]
    if not trial.case.edits:
        with pytest.raises(SystemExit, match="edits no images"):
            edit.main(arguments)
        return
    edit.main(arguments)
    with Image.open(out) as picture:
        assert picture.mode == "RGB"
    assert f"written: {out}" in capsys.readouterr().out


@pytest.mark.usefixtures("whole")
def test_evaluate_py_scores(trial: Trial, tmp_path: Path) -> None:
    own = load_module(trial.run("whole")).metrics
    sampling = ["--sampling", *trial.case.sampling] if trial.case.sampling else []
    arguments = ["--checkpoint", str(trial.run("whole")), "--data", str(trial.config), "--split", "val"]
    metrics = ["--metrics", *trial.case.metrics, *own]
    arguments += ["--out", str(tmp_path / "out"), *metrics, *sampling]
    if not trial.case.edits:
        with pytest.raises(SystemExit, match="edits no images"):
            evaluate.main(arguments)
        return
    evaluate.main(arguments)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(report["metrics"]) == len(trial.case.metrics) + len(own)
    for name, found in report["metrics"].items():
        assert found["n"] > 0, name
        assert found["n"] + sum(found["skipped"].values()) == NUM_SAMPLES, name
    assert (tmp_path / "out" / "grid.png").is_file()


@pytest.mark.usefixtures("whole")
def test_a_file_of_its_weights_starts_a_run(trial: Trial) -> None:
    checkpoint = find_checkpoint(trial.run("whole"))
    cli = trial.command("fit", "started", "--init_from", str(checkpoint), "--trainer.max_steps", "1")
    assert cli.model.outcome.taken


@pytest.mark.slow
@pytest.mark.usefixtures("whole")
def test_killed_it_ends_as_if_nothing_had_been(trial: Trial) -> None:
    kill_and_go_on(trial)


@pytest.mark.usefixtures("whole")
@pytest.mark.parametrize("trial", ["toy-tones"], indirect=True)
def test_so_does_a_method_that_is_one_folder(trial: Trial) -> None:
    kill_and_go_on(trial)


def kill_and_go_on(trial: Trial) -> None:
    """kill -9 in the step after the first checkpoint, then the same command again."""
    killer = {"class_path": "tests.integration.kill.KillAtStep", "init_args": {"step": HALF}}
    killed = trial.processes("killed", 1, "--trainer.callbacks+", json.dumps(killer))
    assert killed == [-signal.SIGKILL]
    assert trial.processes("killed", 1) == [0]
    assert differing(learned(trial.run("killed")), learned(trial.run("whole"))) == []


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.usefixtures("whole")
def test_two_ranks_take_the_steps_of_one(trial: Trial, whole: MMIGCLI, strategy: str) -> None:
    if strategy == "fsdp2" and keeps_apart(whole.model.turns()):
        pytest.skip("FSDP2 refuses several optimisers")
    name = f"two-{strategy}"
    assert trial.processes(name, 2, "--trainer.devices", "2", "--trainer.strategy", strategy) == [0, 0]
    assert logged(trial.run(name)) == pytest.approx(logged(trial.run("whole")), rel=1e-4)
    one, two = learned(trial.run("whole")), learned(trial.run(name))
    assert one.keys() == two.keys()
    # all together: AdamW's first steps go by the sign of a gradient, also of one that is nothing but rounding
    first, other = (torch.cat([value.flatten().double() for _, value in sorted(found.items())]) for found in (one, two))
    assert (first - other).norm() < 1e-3 * first.norm()
