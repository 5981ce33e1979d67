"""Runs, files of weights and exported folders as version 0.1 wrote them: the first are refused, the others still open.

They are made by today's code, and what 0.1 (commit 62c785a) wrote otherwise is put back: no version, the old names.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mmig import __version__
from mmig.checkpoints.checkpoint import (
    OldRunError,
    build_module,
    init_weights,
    load_module,
    read_checkpoint,
    read_start,
)
from mmig.checkpoints.files import VALUES, write_file
from mmig.methods.mmig.pipeline import MMIGPipeline
from mmig.run import export
from mmig.run.cli import main
from tests.integration.workspace import Workspace

NOW, BEFORE = "mmig.methods.mmig.stages.paper.Stage1", "mmig.stages.stage1.Stage1"
REFUSED = (
    rf"step-00000001\.ckpt was written by mmig 0\.1\.0; runs made before 0\.2 cannot be read by {__version__}: "
    r"check out commit 62c785a for them, or pass their weights on as a \.safetensors file written there by "
)


class Artefacts(NamedTuple):
    """A run, its weights as one file, and its exported folder."""

    run: Path
    weights: Path
    folder: Path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("before"), num_samples=16)


def fit(workspace: Workspace, runs: Path, name: str, *options: str) -> Path:
    config = workspace.config(max_steps=1, enable_progress_bar=False, limit_val_batches=0)
    file = workspace.folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    main(["fit", "--config", str(file), "--name", name, "--runs", str(runs), *options])
    return runs / name


@pytest.fixture(scope="module")
def today(workspace: Workspace) -> Artefacts:
    folder = workspace.folder / "today"
    made = Artefacts(fit(workspace, folder, "run"), folder / "run.safetensors", folder / "exported")
    for out in (made.weights, made.folder):
        export.main(["--checkpoint", str(made.run), "--out", str(out)])
    return made


@pytest.fixture(scope="module")
def old(today: Artefacts, tmp_path_factory: pytest.TempPathFactory) -> Artefacts:
    """The same as version 0.1 wrote it."""
    folder = tmp_path_factory.mktemp("old")
    shutil.copytree(today.run.parent, folder, dirs_exist_ok=True)
    made = Artefacts(folder / "run", folder / "run.safetensors", folder / "exported")
    config = made.run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(NOW, BEFORE), encoding="utf-8")
    checkpoint = made.run / "checkpoints" / "step-00000001.ckpt"
    write_file(as_before(read_checkpoint(checkpoint)), checkpoint)
    with safe_open(made.weights, framework="pt") as file:
        metadata = file.metadata()
    save_file(load_file(made.weights), made.weights, {**metadata, "mmig": json.dumps(as_before(facts_of(metadata)))})
    index = made.folder / "model_index.json"
    index.write_text(index.read_text(encoding="utf-8").replace('"mmig.methods.mmig.connectors"', '"mmig.connectors"'))
    return made


def facts_of(metadata: dict[str, str]) -> dict[str, Any]:
    return json.loads(metadata["mmig"])


def as_before(values: dict[str, Any]) -> dict[str, Any]:
    assert values.pop("version") == values["manifest"]["versions"].pop("mmig") == __version__
    values["manifest"]["config"]["model"]["class_path"] = BEFORE
    return values


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize(
    ("name", "options"), [("run", []), ("other", ["--resume", "{run}"]), ("other", ["--init_from", "{run}"])]
)
def test_no_run_goes_on_or_starts_from_an_old_one(
    workspace: Workspace, old: Artefacts, tmp_path: Path, name: str, options: list[str]
) -> None:
    shutil.copytree(old.run, tmp_path / "run")
    before = files_below(tmp_path / "run" / "checkpoints")
    with pytest.raises(SystemExit, match=f"error: .*{REFUSED}") as caught:
        fit(workspace, tmp_path, name, *(option.format(run=tmp_path / "run") for option in options))
    assert "\n" not in str(caught.value)
    assert files_below(tmp_path / "run" / "checkpoints") == before
    if name == "run":
        assert (tmp_path / "run" / "config.yaml").read_bytes() == (old.run / "config.yaml").read_bytes()


@pytest.mark.parametrize("form", ["run", "file", "folder"])
def test_an_old_run_is_neither_loaded_nor_exported(old: Artefacts, tmp_path: Path, form: str) -> None:
    path = old.run if form == "run" else old.run / "checkpoints" / "step-00000001.ckpt"
    if form == "folder":
        values = torch.load(path, weights_only=True)
        path = tmp_path / "step-00000001.ckpt"
        path.mkdir()
        torch.save({**values, "shard_sizes": {}}, path / VALUES)
    with pytest.raises(OldRunError, match=REFUSED):
        load_module(path)  # so do evaluate.py and edit.py
    with pytest.raises(SystemExit, match=f"error: .*{REFUSED}"):
        export.main(["--checkpoint", str(path), "--out", str(tmp_path / "out.safetensors")])


def test_an_old_file_of_weights_gives_the_same_module(today: Artefacts, old: Artefacts, tmp_path: Path) -> None:
    expected = load_module(today.run)
    shutil.copytree(old.run, tmp_path / "run")
    shutil.copy(old.weights, tmp_path / "run" / "in_its_run.safetensors")  # beside a config.yaml with the old names
    for file in (old.weights, tmp_path / "run" / "in_its_run.safetensors"):
        found = load_module(file)
        assert type(found) is type(expected) and found.step == expected.step == 1
        stored = found.stored_names()
        assert stored == expected.stored_names()
        assert all(torch.equal(found.state_dict()[name], expected.state_dict()[name]) for name in stored)


def test_an_old_file_of_weights_is_exported_and_starts_a_run(
    workspace: Workspace, today: Artefacts, old: Artefacts, tmp_path: Path
) -> None:
    again = tmp_path / "again.safetensors"
    export.main(["--checkpoint", str(old.weights), "--out", str(again)])
    assert same(load_file(again), load_file(today.weights))
    assert read_checkpoint(again)["version"] == __version__
    assert read_checkpoint(again)["manifest"]["config"]["model"]["class_path"] == NOW
    run = fit(workspace, tmp_path, "tuned", "--init_from", str(old.weights))
    assert read_checkpoint(run)["state_dict"].keys() == load_file(old.weights).keys()


def test_an_old_exported_folder_opens_and_edits_untouched(today: Artefacts, old: Artefacts) -> None:
    before, source = files_below(old.folder), torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    edited = []
    for folder in (today.folder, old.folder):
        pipeline = MMIGPipeline.from_pretrained(folder)
        pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(2)
        edited.append(pipeline(source, "make it red", "a red circle", generator=generator, output_type="pt").images)
    assert torch.equal(*edited)
    assert files_below(old.folder) == before


def test_a_run_starts_from_an_old_exported_folder(old: Artefacts) -> None:
    section = read_checkpoint(old.weights)["manifest"]["config"]["model"]
    places = {"diffusion": "", "unet": "", "llm": "llm"}
    section["init_args"]["backbones"] |= {name: str(old.folder / place) for name, place in places.items()}
    stage = build_module({"model": section})
    assert init_weights(stage, read_start(stage, old.folder)) == []
    weights = load_file(old.weights)
    assert all(torch.equal(stage.state_dict()[name], weights[name]) for name in weights)
