"""configs/styleclip: published sizes, and what the small world's generator may have."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmig.base.settings import call
from mmig.methods.styleclip.direction_editor import DirectionSampling
from mmig.methods.styleclip.discriminator import Discriminator
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.latent_optimisation import LatentOptimisationEditor, LatentSampling
from mmig.methods.styleclip.mapper import LatentMapper
from tests.mmig.methods.styleclip.support import save_generator

FOLDER = Path("configs/styleclip")
SIZES = ("resolution", "z_dim", "w_dim", "num_mapping_layers", "channel_base", "channel_max")


def settings(name: str, section: str = "model") -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))[section]["init_args"]


def num_parameters(name: str) -> int:
    found = settings(name)
    with torch.device("meta"):
        parts = (
            StyleGenerator(**{size: found[size] for size in SIZES}),
            Discriminator(found["resolution"], found["channel_base"], found["channel_max"]),
        )
    return sum(weight.numel() for part in parts for weight in part.parameters())


def test_the_published_networks_have_their_sizes() -> None:
    assert num_parameters("published_gan") == 30_370_060 + 29_012_513
    found = settings("published_mapper")
    with torch.device("meta"):
        mapper = LatentMapper(18, 512, found["groups"], found["bounds"], norm_dim=found["norm_dim"])
    assert sum(weight.numel() for weight in mapper.parameters()) == 3_151_872
    assert (found["step_size"], found["loss_weights"]) == (0.1, {"clip": 1.0, "l2": 0.8})


def test_published_edits_are_those_of_the_authors() -> None:
    latent, direction = (settings(f"published_{name}", "editor")["sampling"] for name in ("latent", "directions"))
    assert LatentSampling(**latent) == LatentSampling()
    assert DirectionSampling(**direction) == DirectionSampling()


def test_the_small_generator_and_its_opponent_have_at_most_two_million_parameters() -> None:
    assert num_parameters("tinyworld_gan") == 561_300 < 2_000_000


@pytest.mark.parametrize("kind", ["published", "tinyworld"])
def test_the_editor_of_a_configuration_opens_with_a_generator_in_its_place(kind: str, tmp_path: Path) -> None:
    section = yaml.safe_load((FOLDER / f"{kind}_latent.yaml").read_text(encoding="utf-8"))["editor"]
    section["init_args"] |= {"generator": str(save_generator(tmp_path)), "clip": "assets/tiny/clip"}
    editor = call(section)
    assert isinstance(editor, LatentOptimisationEditor) and editor.sampling.num_steps == 40
    assert "identity" in editor.idle_settings
