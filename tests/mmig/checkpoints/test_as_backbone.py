"""Runs, checkpoints, files of weights and exported folders of ours as backbones of others."""

import os
import shutil
from pathlib import Path

import pytest
import torch

from mmig.backbones import BackboneError
from mmig.backbones.diffusion import load_scheduler, load_unet, load_vae
from mmig.backbones.fetch import fetch, find_references
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.hub import is_run
from mmig.backbones.named import as_backbone, origins
from mmig.checkpoints.as_backbone import exported
from mmig.checkpoints.checkpoint import find_checkpoint, load_module
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.run.export import export_run, export_weights
from mmig.training.optim import OptimizerConfig
from tests.mmig.methods.contract import Trial
from tests.mmig.methods.instruct_pix2pix.contract import CASES
from tests.tiny_fixtures import build_all


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of InstructPix2Pix, after one step."""
    folder = tmp_path_factory.mktemp("trial")
    trial = Trial.begin(CASES["edits"], folder, build_all(tmp_path_factory.mktemp("backbones")))
    trial.command("fit", "trained", "--trainer.max_steps", "1")
    return trial.run("trained")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "mmig" / "exported"


def test_all_forms_of_a_run_hold_its_averaged_unet(run: Path, tmp_path: Path) -> None:
    wanted = load_module(run).unet
    weights, folder = tmp_path / "weights.safetensors", tmp_path / "exported"
    export_weights(run, weights)
    export_run(run, folder)
    prints = set()
    for place in (run, find_checkpoint(run), weights, folder):
        unet = load_unet(str(place))
        assert unet.config.in_channels == 8
        for name, value in wanted.named_parameters():
            torch.testing.assert_close(unet.get_parameter(name), value)
        prints.add(fingerprint(str(place), "unet"))
    assert len(prints) == 1
    assert type(load_scheduler(run)) is type(load_module(run).scheduler)


def test_it_is_exported_once(run: Path, cache: Path) -> None:
    first = exported(run)
    before = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    assert exported(find_checkpoint(run)) == first
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*")} == before
    assert [folder for folder in cache.iterdir() if folder.is_dir()] == [first]


def test_processes_that_ask_at_once_get_one_export(run: Path, cache: Path) -> None:
    partial = exported(run).parent / f".{exported(run).name}.partial"
    shutil.rmtree(exported(run))
    partial.mkdir()  # as a process leaves it that is killed while it exports
    pids = []
    for _ in range(3):
        if (pid := os.fork()) == 0:
            try:
                load_unet(run)
                os._exit(0)
            finally:
                os._exit(1)
        pids.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids] == [0, 0, 0]
    assert [folder.name for folder in cache.iterdir() if folder.is_dir()] == [exported(run).name]


def test_a_newer_checkpoint_is_another_backbone(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    before = exported(copy)
    checkpoint = find_checkpoint(copy)
    os.utime(checkpoint, ns=(0, 0))
    assert exported(copy) != before


def test_a_run_starts_another(run: Path) -> None:
    module = load_module(run)
    other = InstructPix2PixModule(
        OptimizerConfig(),
        {"sdm": 1.0},
        backbone=module.origins["vae"].path,
        unet={"path": str(run)},  # type: ignore[arg-type]
    )
    assert other.origins["unet"].path == str(run)
    for name, value in module.unet.named_parameters():
        torch.testing.assert_close(other.unet.get_parameter(name), value)
    assert "unet" not in other.describe_backbones()  # stored whole, so that this run may go
    assert other.describe_origins()["unet"] == {"path": str(run), "fingerprint": fingerprint(str(run), "unet")}


def test_fetch_finds_it_in_its_place(run: Path) -> None:
    section = {
        "class_path": "mmig.methods.instruct_pix2pix.module.InstructPix2PixModule",
        "init_args": {"backbone": load_module(run).origins["vae"].path, "unet": str(run)},
    }
    places = [place for each in find_references({"model": section}, "c.yaml") for place in fetch(each)]
    assert exported(run) / "unet" in places


def test_what_it_does_not_hold_is_named(run: Path, tmp_path: Path) -> None:
    assert is_run(run)
    assert not is_run(tmp_path)
    (run / "checkpoints").rename(run / "moved")
    try:
        with pytest.raises(BackboneError, match="trained"):
            load_vae(run)
    finally:
        (run / "moved").rename(run / "checkpoints")


def test_a_string_and_a_mapping_are_one(run: Path) -> None:
    table = InstructPix2PixModule.backbone_settings
    assert origins(table, {"unet": str(run)}) == origins(table, {"unet": as_backbone(str(run))})
