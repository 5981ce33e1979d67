"""PSNR, the autoencoder's ceiling and the table of edits, against figures made by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from experiments.tiny_backbones.score_edits import score_edits
from experiments.tiny_backbones.score_images import psnr, score_autoencoder
from mmig.backbones.diffusion import load_scheduler, load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, InstructPix2PixPipeline
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


def test_scores_leave_visual_instructions_out_of_the_whole(folder: Path) -> None:
    pipeline = InstructPix2PixPipeline(
        load_vae(folder),
        load_unet(folder, in_channels=8),
        load_text_encoder(folder),
        load_tokenizer(folder),
        load_scheduler(folder),
        sampling=EditSampling(num_steps=2),
    )
    metadata = [{"success": float(i % 2 == 0)} for i in range(4)]  # the visual ones fail
    batch: Any = edit_batch(4) | {"edit_type": ["add", "visual"] * 2, "metadata": metadata}

    def judge(image: torch.Tensor, metadata: dict[str, Any]) -> dict[str, float]:
        return {"success": metadata["success"], "preservation": 1.0}

    table = score_edits(pipeline, [batch], judge)
    assert table == {"add": (1.0, 1.0, 2), "visual": (0.0, 1.0, 2), "non-visual": (1.0, 1.0, 2)}
