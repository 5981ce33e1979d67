"""configs/umm_diffusion: both phases are the paper's."""

from pathlib import Path

import pytest
import yaml

from bench.stages.configured import build_configured, read_configs
from bench.stages.count import memory
from bench.stages.sizes import PUBLISHED
from tests.test_configs import by_its_command

ROOT = Path(__file__).resolve().parents[4]
FOLDER = "configs/umm_diffusion"
MLP, UNET = 2_629_888, 859_520_964
VAE, TEXT, TOWER, PROJECTION = 83_653_863, 123_060_480, 303_179_776, 1024 * 768
"""Parameters of Stable Diffusion 1.5 and of CLIP ViT-L/14."""


@pytest.mark.parametrize("phase", [1, 2])
def test_a_phases_command_is_the_papers(phase: int) -> None:
    """Sections 3.3, 4.1 and appendix A; 32 GPUs take 6 samples each."""
    config = by_its_command(f"{FOLDER}/published_phase{phase}.yaml")
    model, data, optimizer = (
        config["model"]["init_args"],
        config["data"]["init_args"],
        config["model"]["init_args"]["optimizer"],
    )
    assert (model["phase"], model["drop"], model["subject_share"]) == (phase, 0.1, 0.6)
    assert (optimizer["lr"], optimizer["weight_decay"], optimizer["clip_norm"]) == (1e-5, 0.0, None)
    assert (optimizer["kind"], optimizer["schedule"], optimizer["warmup_steps"]) == ("adamw", "constant", 0)
    assert (data["global_batch_size"], model["micro_batch_size"] * 32, data["resolution"]) == (192, 192, 512)
    assert data["attachment_size"] == 224
    assert (config["trainer"]["max_steps"], config["trainer"]["precision"]) == (200_000, "32-true")
    assert config["ema"]["decay"] == 0.9999
    assert model["sampling"] == {"num_steps": 50, "guidance_scale": 7.5, "fuse_ratio": 0.5}
    assert model["image_embedding"] == "projected"


def test_the_phases_differ_in_what_trains_alone() -> None:
    first, second = (
        yaml.safe_load((ROOT / FOLDER / f"published_phase{phase}.yaml").read_text(encoding="utf-8")) for phase in (1, 2)
    )
    assert (first["model"]["init_args"].pop("phase"), second["model"]["init_args"].pop("phase")) == (1, 2)
    assert first == second


@pytest.mark.parametrize(("phase", "trained"), [(1, MLP), (2, MLP + UNET)])
def test_the_published_sizes_are_those_of_the_parts(phase: int, trained: int) -> None:
    found = memory(build_configured(read_configs([f"{FOLDER}/published_phase{phase}.yaml"], []), PUBLISHED, "meta"))
    assert found.trained == trained
    assert found.trained + found.frozen == MLP + UNET + VAE + TEXT + TOWER + PROJECTION
