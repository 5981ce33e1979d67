"""PSNR, the autoencoder's ceiling and what is drawn from captions, against figures made by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.tiny_backbones.score_images import psnr, score_autoencoder, score_text_to_image
from mmig.backbones.diffusion import load_vae
from mmig.methods.latent_diffusion.pipeline import DrawSampling, open_editor
from tests.mmig.batches import edit_batch
from tests.tiny_fixtures import build_stable_diffusion


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_stable_diffusion(tmp_path / "stable-diffusion")


def test_psnr_of_a_known_error() -> None:
    images = torch.zeros(2, 3, 4, 4)
    assert psnr(images + 0.2, images).tolist() == pytest.approx([20.0, 20.0])


def test_the_ceiling_counts_successes_of_reconstructed_targets(folder: Path) -> None:
    def judge(image: torch.Tensor, metadata: dict[str, Any]) -> SimpleNamespace:
        return SimpleNamespace(success=any(torch.equal(image, target) for target in batch["target"]))

    batch: Any = edit_batch(2) | {"metadata": [{}] * 2}
    scores = score_autoencoder(load_vae(folder), [batch], judge)
    assert (scores["ceiling"], scores["targets"], scores["images"]) == (0.0, 2.0, 4.0)


def test_scenes_and_objects_drawn_from_captions_are_counted(folder: Path) -> None:
    pipeline = open_editor(str(folder), DrawSampling(num_steps=2))
    batch: Any = edit_batch(4) | {"source_caption": [f"caption {row}" for row in range(4)]}
    batch["metadata"] = [{"source_scene": {"things": ["a", "b"][:count]}} for count in (0, 1, 2, 2)]

    def judge(image: torch.Tensor, scene: dict[str, Any]) -> SimpleNamespace:
        many = len(scene["things"])
        return SimpleNamespace(correct=many == 1, objects_right=1, objects=many, background=True)

    scores = score_text_to_image(pipeline, [batch], judge)  # the first has no object
    assert scores == {"correct": 1 / 3, "objects": 3 / 5, "background": 1.0, "scenes": 3.0}
