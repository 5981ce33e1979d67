"""Fine-tuning through train.py's command line: a user's folder, resuming, starting from a run, editing and export."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import edit
from datamodules.tinyworld.sample import make_sample
from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.run.cli import main
from mmig.run.export import export_run
from tests.integration.workspace import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Backbones, and a folder of pictures with a table of edits."""
    workspace = Workspace(tmp_path_factory.mktemp("finetune"), num_samples=8)
    pictures = workspace.folder / "pictures"
    pictures.mkdir()
    rows = ["Source,Target,Instruction,Response"]
    for number in range(12):
        sample = make_sample(1, "outline", number, photographs=False)
        sample["source"].save(pictures / f"{number}a.png")
        sample["target"].save(pictures / f"{number}b.png")
        rows.append(f'{number}a.png,{number}b.png,"{sample["instruction"]}","{sample["response"]}"')
    (workspace.folder / "edits.csv").write_text("\n".join(rows), encoding="utf-8")
    return workspace


def fit(workspace: Workspace, name: str, steps: int, *arguments: str, **init_args: Any) -> Path:
    """Fine-tune in this process; returns the run's folder."""
    folder = workspace.folder
    config = copy.deepcopy(workspace.config(max_steps=steps, enable_progress_bar=False, val_check_interval=2))
    model = config["model"]
    model["class_path"] = "mmig.methods.mmig.stages.finetune.FineTune"
    model["init_args"]["backbones"]["vision"] = str(folder / "clip-vision")
    model["init_args"] |= {"lora": {"unet": {"rank": 2}, "llm": {"rank": 2}}, **init_args}
    config["data"] = {
        "class_path": "datamodules.folder.FolderData",
        "init_args": {
            "source": str(folder / "pictures"),
            "table": str(folder / "edits.csv"),
            "root": str(folder / "own"),
            "resolution": 64,
            "global_batch_size": 2,
            "eval_batch_size": 2,
        },
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    main(["fit", "--config", str(file), "--runs", str(folder / "runs"), "--name", name, *arguments])
    return folder / "runs" / name


def equal(one: Path, other: Path) -> bool:
    weights, others = (read_checkpoint(run)["state_dict"] for run in (one, other))
    return weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)


def test_an_interrupted_run_goes_on_to_the_same_bits(workspace: Workspace) -> None:
    whole = fit(workspace, "whole", 4)
    fit(workspace, "parts", 2)
    parts = fit(workspace, "parts", 4)
    assert equal(whole, parts)
    names = read_checkpoint(whole)["state_dict"]
    assert any(".lora_A." in name for name in names)
    assert not any(name.startswith(("mmig.unet.", "mmig.mllm.llm.")) and ".lora_" not in name for name in names)


def test_a_fine_tuned_run_starts_another_and_edits_and_exports(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fit(workspace, "first", 2)
    second = fit(workspace, "second", 1, "--init_from", str(first), optimizer={"lr": 0.0, "weight_decay": 0.0})
    averaged, found = read_checkpoint(first)["ema"]["weights"], read_checkpoint(second)["state_dict"]
    assert all(torch.equal(found[name], value) for name, value in averaged.items())
    picture = workspace.folder / "pictures" / "0a.png"
    arguments = ["--image", str(picture), "--instruction", "x", "--response", "y", "--out", str(tmp_path / "out.png")]
    edit.main(["--checkpoint", str(second), *arguments])
    assert (tmp_path / "out.png").exists() and "response (given): y" in capsys.readouterr().out
    assert not any("lora" in path.read_text() for path in export_run(second, tmp_path / "out").rglob("*.json"))
