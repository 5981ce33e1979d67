"""Fine-tuning: what trains, what a checkpoint holds, from which runs it starts, and the way to a merged pipeline."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmig import __version__
from mmig.checkpoints.checkpoint import CheckpointError, init_weights, load_module
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.pipeline import MMIGPipeline
from mmig.methods.mmig.stages.finetune import FineTune, FineTuneDenoiser, Updates
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage3, Stage5
from mmig.run.export import export_run
from mmig.training.lora import LoRAConfig
from mmig.training.rng import Draws
from tests import warm
from tests.mmig.batches import edit_batch
from tests.mmig.methods.mmig.stages.support import build_stage, world_batch
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import TinyBackbones, build_all, build_vae

BOTH = Updates(LoRAConfig(4, targets=["to_q", "to_v", "conv1"]), LoRAConfig(2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


def trained(stage: MMIGStage) -> set[str]:
    return {name for name, parameter in stage.named_parameters() if parameter.requires_grad}


def checkpoint_of(stage: MMIGStage) -> dict[str, Any]:
    state = stage.state_dict()
    weights = {name: state[name].clone() for name in stage.stored_names()}
    return {"state_dict": weights, "version": __version__, "step": 7, "backbones": stage.describe_backbones()}


def moved(stage: MMIGStage) -> MMIGStage:
    """The stage with every trained weight off its start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in stage.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return stage


def test_updates_adapters_and_mmsm_train_and_all_get_a_gradient(folders: TinyBackbones) -> None:
    stage = moved(build_stage(folders, FineTune, lora=BOTH, multimodal=MultimodalConfig(dropout=0.0)))
    batch = world_batch()
    draws = Draws(0, batch["position"])
    values, counts = values_of(stage, batch, draws), counts_of(stage, batch, draws)
    assert set(values) == {"mmt", "sdm", "as", "ar", "fg", "bg", "mmsm"}
    torch.stack([(values[name] * counts[name]).sum() for name in values]).sum().backward()
    names = trained(stage)
    kinds = ("mmig.mmsm.", "mmig.mllm.adapters.", "mmig.unet.", "mmig.mllm.llm.")
    assert {next(kind for kind in kinds if name.startswith(kind)) for name in names} == set(kinds)
    assert all("lora_" in name for name in names if name.startswith(("mmig.unet.", "mmig.mllm.llm.")))
    gradients = {name: parameter.grad for name, parameter in stage.named_parameters() if name in names}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.any()] == []


def test_a_checkpoint_holds_the_updates_and_no_base_weight(folders: TinyBackbones) -> None:
    stage = build_stage(folders, FineTune, lora=BOTH)
    assert stage.stored_names() == trained(stage)
    denoiser = build_stage(folders, FineTuneDenoiser)
    stored = denoiser.stored_names()
    assert {name for name in stored if not name.startswith("mmig.mllm.adapters.")} == trained(denoiser)
    assert denoiser.features.names & {"llm.visual_tokens", "llm.states"}


def test_it_starts_from_a_run_that_trained_the_whole_denoiser(folders: TinyBackbones) -> None:
    before = moved(build_stage(folders, Stage3))
    stage = build_stage(folders, FineTune, lora=BOTH)
    init_weights(stage, checkpoint_of(before))
    own, given = stage.mmig.unet.state_dict(), before.mmig.unet.state_dict()
    assert all(torch.equal(own.get(name, own.get(_with_base(name))), value) for name, value in given.items())
    again = build_stage(folders, FineTune, lora=BOTH)  # a base weight that was trained travels on
    init_weights(again, checkpoint_of(moved(stage)))
    assert _equal_states(stage, again)


def test_it_starts_from_the_first_stage_and_from_the_last(folders: TinyBackbones) -> None:
    """Stage 1 has no adapters of images yet; stage 5 trains BLIP-2's Q-Former, which fine-tuning does without."""
    stage = build_stage(folders, FineTune, lora=BOTH)
    for kind in (Stage1, Stage5):
        before = moved(build_stage(folders, kind))
        left_out = init_weights(stage, checkpoint_of(before))
        own, given = stage.mmig.mmsm.state_dict(), before.mmig.mmsm.state_dict()
        assert own.keys() == given.keys() and all(torch.equal(own[name], value) for name, value in given.items())
        assert {name.split(".")[1] for name in left_out} == ({"captioner"} if kind is Stage5 else set())
        assert not stage.stored_names() & set(left_out)


def test_it_starts_from_a_fine_tuned_run_and_refuses_other_updates_by_name(folders: TinyBackbones) -> None:
    first = moved(build_stage(folders, FineTune, lora=BOTH))
    second = build_stage(folders, FineTune, lora=BOTH)
    init_weights(second, checkpoint_of(first))
    assert _equal_states(first, second)
    other = build_stage(folders, FineTune, lora=Updates(LoRAConfig(8, targets=BOTH.unet.targets), BOTH.llm))
    with pytest.raises(CheckpointError, match=r"lora_\w.default\.weight .* does not fit FineTune \(shape") as caught:
        init_weights(other, checkpoint_of(first))
    assert "\n" not in str(caught.value)


def test_an_autoencoder_named_apart_is_used_and_belongs_to_the_run(folders: TinyBackbones, tmp_path: Path) -> None:
    apart = build_stage(folders, FineTune, vae=build_vae(tmp_path / "vae", seed=3))
    usual = build_stage(folders, FineTune)
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    images = [stage.mmig.vae.decode(latents).sample for stage in (apart, usual)]
    assert (images[0] - images[1]).abs().max() > 1e-2
    assert apart.describe_backbones()["vae"]["path"] == str(tmp_path / "vae")
    with pytest.raises(ValueError, match=r"backbone vae: the checkpoint was trained on .*vae"):
        init_weights(usual, checkpoint_of(apart))


@pytest.fixture(scope="module")
def run(folders: TinyBackbones, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuned run whose updates are not zero, as train.py leaves it."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    (run / "checkpoints").mkdir(parents=True)
    backbones = {
        "diffusion": str(folders.stable_diffusion),
        "llm": str(folders.llama),
        "unet": str(folders.instruct_pix2pix),
        "vision": str(folders.clip_vision),
    }
    arguments = {
        "backbones": backbones,
        "optimizer": {"lr": 1e-3},
        "lora": {"unet": {"rank": 4, "targets": ["to_q", "to_v", "conv1"]}, "llm": {"rank": 2}},
        "mmsm": {"dim": 16, "heads": 2},
        "multimodal": {"max_response_tokens": 6},
        "source_conditioning": "concat",
        "sampling": {"num_steps": 2, "guidance_scale": 3.0, "response": "generated"},
    }
    model = {"class_path": "mmig.methods.mmig.stages.finetune.FineTune", "init_args": arguments}
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"train": str(run / "d"), "resolution": 64}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "ema": {"decay": 0.99}}))
    stage = moved(build_stage(folders, FineTune, lora=BOTH))
    torch.save(checkpoint_of(stage), run / "checkpoints" / "step-00000007.ckpt")
    return run


def test_the_exported_pipeline_is_merged_and_gives_the_same_images(run: Path, tmp_path: Path) -> None:
    batch = edit_batch(2)
    stage = load_module(run)
    expected = stage.make_pipeline()(batch, torch.Generator().manual_seed(3))
    pipeline = MMIGPipeline.from_pretrained(export_run(run, tmp_path / "out"))
    assert any("lora_" in name for name in stage.mmig.state_dict())
    assert not any("lora_" in name for part in (pipeline.unet, pipeline.llm) for name in part.state_dict())
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        batch["source"], batch["instruction"], output_type="pt", generator=torch.Generator().manual_seed(3)
    )
    assert found.descriptions == expected.texts
    assert (found.images - expected.images).abs().max() <= 1e-5
    with_zero = MMIGPipeline.from_model(load_module(run).mmig, stage.sampling)
    for name, parameter in with_zero.unet.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    bare = with_zero.edit(batch["source"], batch["instruction"], None, stage.sampling, torch.Generator().manual_seed(3))
    assert (bare.images - expected.images).abs().max() > 1e-3  # the updates do something


WITHOUT_GPU = """
import sys, torch
from mmig.backbones.llm import load_llm
from mmig.training.optim import OptimizerConfig, build_optimizer
from mmig.base.commands import one_line_errors
with one_line_errors():
    if sys.argv[1] == "llm":
        load_llm(sys.argv[2], quantise="4bit")
    else:
        build_optimizer([("a", torch.nn.Parameter(torch.zeros(2, 2)))], OptimizerConfig(kind=sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (
            "llm",
            r"error: backbones\.quantise_llm: 4bit needs .*an NVIDIA GPU, not found here; leave it out, or cache .*",
        ),
        ("adamw_8bit", r"error: optimizer\.kind: adamw_8bit needs .*an NVIDIA GPU, not found here; take adamw"),
        ("paged_adamw_8bit", r"error: optimizer\.kind: paged_adamw_8bit needs .*; take adamw"),
    ],
)
def test_four_and_eight_bits_say_in_one_line_what_they_need(
    kind: str, message: str, folders: TinyBackbones, root: Path, tmp_path: Path
) -> None:
    program = tmp_path / "without_gpu.py"
    program.write_text(WITHOUT_GPU)
    arguments = ["llm", str(folders.llama)] if kind == "llm" else ["optimizer", kind]
    done = subprocess.run(
        [warm.python(), str(program), *arguments],
        cwd=root,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and re.fullmatch(message, done.stderr.strip())


def test_a_frozen_language_model_takes_no_updates(folders: TinyBackbones) -> None:
    with pytest.raises(ValueError, match=r"lora\.llm\.rank: FineTuneDenoiser freezes"):
        build_stage(folders, FineTuneDenoiser, lora=BOTH)


def _with_base(name: str) -> str:
    head, _, last = name.rpartition(".")
    return f"{head}.base_layer.{last}"


def _equal_states(one: MMIGStage, other: MMIGStage) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
