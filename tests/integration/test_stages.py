"""Five stages in order through train.py's command line, each from the last, on random tiny backbones."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules.schema import collate
from datamodules.shard_index import ShardIndex
from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.checkpoints.checkpoint import load_module, read_checkpoint
from mmig.run.cli import main
from tests.integration.losses import logged
from tests.integration.workspace import Workspace

WEIGHTS = {
    1: ["mmsm", "sdm"],
    2: ["mmt", "mmsm", "sdm"],
    3: ["sdm", "as", "ar", "fg", "bg", "mmsm"],
    4: ["mmt", "sdm", "as", "ar", "fg", "bg", "mmsm"],
    5: ["sdm", "as", "ar", "fg", "bg", "mmt", "blip2", "mmsm"],
}


def fit(workspace: Workspace, stage: int, *arguments: str, steps: int = 2, name: str | None = None) -> Path:
    config: dict[str, Any] = copy.deepcopy(workspace.config(max_steps=steps, enable_progress_bar=False))
    config["model"]["class_path"] = f"mmig.methods.mmig.stages.paper.Stage{stage}"
    backbones = config["model"]["init_args"]["backbones"]
    if stage > 1:
        backbones["vision"] = str(workspace.folder / "clip-vision")
    if stage == 5:
        backbones["captioner"] = str(workspace.folder / "blip2")
    if stage > 2:
        config["model"]["init_args"]["objective"] = {"condition_drop": 0.1}
    file = workspace.folder / f"stage{stage}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    runs = workspace.folder / "runs"
    name = name or f"stage{stage}"
    main(["fit", "--config", str(file), "--runs", str(runs), "--name", name, *arguments])
    return runs / name


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, dict[int, Path]]:
    workspace = Workspace(tmp_path_factory.mktemp("chain"))
    runs: dict[int, Path] = {}
    for stage in range(1, 6):
        before = ["--init_from", str(runs[stage - 1])] if stage > 1 else []
        runs[stage] = fit(workspace, stage, *before)
    return workspace, runs


def test_each_stage_carries_what_the_earlier_ones_trained(chain: tuple[Workspace, dict[int, Path]]) -> None:
    _, runs = chain
    stored = {stage: set(read_checkpoint(run)["state_dict"]) for stage, run in runs.items()}
    for stage in range(1, 5):
        assert stored[stage] <= stored[stage + 1]
    assert any(name.startswith("mmig.unet.") for name in stored[4]) and not any("unet" in name for name in stored[2])
    assert any("qformer" in name for name in stored[5]) and not any("qformer" in name for name in stored[4])
    third = read_checkpoint(runs[3])["state_dict"]  # frozen there, trained in stage 2
    adapter = next(name for name in stored[3] if name.startswith("mmig.mllm.adapters.") and "down" in name)
    assert torch.equal(third[adapter], read_checkpoint(runs[2])["ema"]["weights"][adapter])


def test_run_and_checkpoint_say_what_was_trained_on(chain: tuple[Workspace, dict[int, Path]]) -> None:
    workspace, runs = chain
    checkpoint = read_checkpoint(runs[2])
    (submission,) = json.loads((runs[2] / "manifest.json").read_text(encoding="utf-8"))["submissions"]
    assert submission["backbones"] == checkpoint["backbones"] and "vision" in str(submission["backbones"])
    assert submission["versions"] == checkpoint["manifest"]["versions"]
    assert submission["commit"] == checkpoint["manifest"]["commit"]
    assert checkpoint["manifest"]["config"] == yaml.safe_load((runs[2] / "config.yaml").read_text(encoding="utf-8"))
    assert checkpoint["ShardData"]["train"]["fingerprint"] == ShardIndex.load(workspace.folder / "train").fingerprint


def test_the_last_stage_edits_and_captions(chain: tuple[Workspace, dict[int, Path]]) -> None:
    _, runs = chain
    module = load_module(runs[5])
    assert list(module.loss_weights) == WEIGHTS[5]
    editor = module.make_pipeline()
    batch = collate([make_sample(0, "test", index, photographs=False) for index in range(2)])
    output = editor(batch, [torch.Generator().manual_seed(seed) for seed in range(2)])
    assert output.images.shape == (2, 3, 64, 64)
    assert len(output.extras["captions"]) == 2


def test_a_checkpoint_of_stage_two_does_not_resume_stage_five(chain: tuple[Workspace, dict[int, Path]]) -> None:
    workspace, runs = chain
    with pytest.raises(SystemExit, match=r"Stage2, this run trains .*Stage5: .* with --init_from"):
        fit(workspace, 5, "--resume", str(runs[2]), steps=4)


def test_stage_five_starts_from_the_backbones_alone(tmp_path: Path) -> None:
    run = fit(Workspace(tmp_path), 5, steps=1)
    assert read_checkpoint(run)["step"] == 1


@pytest.fixture(scope="module")
def incomplete(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Most samples miss fields, so that in most batches one rank has nothing for some losses."""
    workspace = Workspace(tmp_path_factory.mktemp("incomplete"))
    needless = ({"response"}, {"target_mask", "concepts"}, {"source", "instruction"}, set())
    samples = (make_sample(0, "train", index, photographs=False) for index in range(40))
    cut = ({k: v for k, v in s.items() if k not in needless[i % 4]} for i, s in enumerate(samples))
    write_shards(cut, workspace.folder / "incomplete", samples_per_shard=16)
    return workspace


@pytest.mark.parametrize("stage", [*(pytest.param(repeated, marks=pytest.mark.slow) for repeated in (2, 3, 4)), 5])
def test_two_ranks_take_the_steps_of_one(incomplete: Workspace, stage: int) -> None:
    train = ["--data.init_args.train", str(incomplete.folder / "incomplete"), "--model.init_args.multimodal.dropout=0"]
    one = fit(incomplete, stage, *train, name=f"one{stage}", steps=4)
    ranks = ["--trainer.devices", "2", "--trainer.strategy", "ddp_fork"]
    two = fit(incomplete, stage, *train, *ranks, name=f"two{stage}", steps=4)
    for term in ["loss", *WEIGHTS[stage]]:
        expected = logged(one, f"train/{term}")
        assert len(expected) == 4
        assert list(logged(two, f"train/{term}").values()) == pytest.approx(list(expected.values()), rel=1e-4, abs=1e-7)
