"""configs/latent_diffusion: both stages are as LDM and the project say."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from bench.stages.configured import build_configured, read_configs
from bench.stages.count import memory
from bench.stages.sizes import PUBLISHED
from tests.test_configs import by_its_command

ROOT = Path(__file__).resolve().parents[4]
FOLDER = "configs/latent_diffusion"
AUTOENCODER, DISCRIMINATOR, VGG16, LINEAR = 83_653_863, 2_765_633, 14_714_688, 1_472
UNET, TEXT = 859_520_964, 123_060_480
BORROWED = ["--model.init_args.vae", "stable-diffusion-v1-5/stable-diffusion-v1-5"]
"""An autoencoder of the same sizes, in the place of a run."""


def test_the_first_stage_is_that_of_ldms_configuration() -> None:
    config = by_its_command(f"{FOLDER}/published_autoencoder.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    optimizer = model["optimizer"]
    assert (optimizer["lr"], optimizer["lr_rule"], list(optimizer["betas"])) == (4.5e-6, "scaled", [0.5, 0.9])
    assert optimizer["lr"] * data["global_batch_size"] == pytest.approx(1.08e-4)
    assert (model["micro_batch_size"], data["global_batch_size"], data["resolution"]) == (12, 24, 256)
    assert (optimizer["weight_decay"], optimizer["clip_norm"], optimizer["warmup_steps"]) == (0.0, None, 0)
    assert model["loss_weights"] == {"reconstruction": 1.0, "lpips": 1.0, "kl": 1e-6, "gan": 0.5, "hinge": 1.0}
    assert (model["discriminator_start"], model["adaptive"]) == (50_001, True)
    assert config["trainer"]["precision"] == "32-true"


def test_the_second_stage_is_the_projects() -> None:
    config = by_its_command(f"{FOLDER}/published_text.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    optimizer = model["optimizer"]
    assert (data["global_batch_size"], data["resolution"], model["resolution"]) == (8, 256, 256)
    assert optimizer["lr_rule"] == "scaled" and optimizer["lr"] * 8 == pytest.approx(1.6e-5)
    assert (optimizer["kind"], optimizer["warmup_steps"], optimizer["warmup_start"]) == ("adamw", 10_000, 1e-6)
    assert (model["caption_drop"], config["ema"]["decay"]) == (0.1, 0.9999)


def test_the_first_stage_has_the_published_parameters() -> None:
    module = build_configured(read_configs([f"{FOLDER}/published_autoencoder.yaml"], []), PUBLISHED, "meta")
    found = memory(module)
    assert found.trained == AUTOENCODER + DISCRIMINATOR
    assert found.frozen == VGG16 + LINEAR
    assert found.average == 4 * AUTOENCODER  # of the discriminator none is kept


@pytest.mark.parametrize("small", [False, True])
def test_the_second_stage_has_the_parameters_that_its_header_says(small: bool) -> None:
    """The smaller UNet by the option in the header."""
    file = f"{FOLDER}/published_text.yaml"
    option = re.search(r"#   (--model\.init_args\.unet .*)", (ROOT / file).read_text(encoding="utf-8"))
    assert option
    more = [*BORROWED, *(shlex.split(option[1]) if small else [])]
    found = memory(build_configured(read_configs([file], more), PUBLISHED, "meta"))
    assert (found.trained, found.frozen) == (354_158_788 if small else UNET, AUTOENCODER + TEXT)


def test_compared_rows_differ_in_what_their_names_say_alone() -> None:
    files = (ROOT / "configs/results/autoencoders").glob("*.yaml")
    rows = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in files}
    weights = rows["base"]["model"]["init_args"]["loss_weights"]
    without = rows["no_adversary"]["model"]["init_args"]
    assert without == {"loss_weights": {name: weights[name] for name in ("reconstruction", "lpips", "kl")}}
    assert set(rows["plain"]) == {"data"}
