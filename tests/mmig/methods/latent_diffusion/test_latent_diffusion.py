"""Autoencoder and text-to-image modules: what they learn, what they leave alone."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.backbones.diffusion import load_vae
from mmig.diffusion.fresh import UNetSize
from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule, FineTuneDecoder, drawn_images
from mmig.methods.latent_diffusion.scale import measure_scale
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.latent_diffusion.support import captioned
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import build_stable_diffusion

SIZE = UNetSize(block_out_channels=[16, 32], layers_per_block=1, attention_heads=2, norm_num_groups=8, sample_size=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_stable_diffusion(tmp_path / "stable-diffusion")


def autoencoder(**settings: Any) -> AutoencoderModule:
    torch.manual_seed(0)
    weights = {"reconstruction": 1.0, "squared": 0.0, "kl": 1e-6}
    return AutoencoderModule(OptimizerConfig(), weights, (8, 16, 16), 1, norm_num_groups=8, sample_size=64, **settings)


def finetuned_decoder(folder: Path) -> FineTuneDecoder:
    return FineTuneDecoder(OptimizerConfig(), {"reconstruction": 0.1, "squared": 1.0}, str(folder))


def text_to_image(folder: Path, **settings: Any) -> TextToImageModule:
    torch.manual_seed(0)
    return TextToImageModule(OptimizerConfig(), {"sdm": 1.0}, str(folder), SIZE, **settings)


def descend(module: Any, batch: Any, steps: int, lr: float) -> list[float]:
    """Total loss before each of a few plain Adam steps on one batch."""
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=lr)
    totals = []
    for _ in range(steps):
        losses = values_of(module, batch, Draws(0, batch["position"]))
        total = sum(module.loss_weights[name] * value.mean() for name, value in losses.items())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    return totals


def test_the_autoencoder_learns_a_batch() -> None:
    losses = descend(autoencoder(), captioned(2), steps=12, lr=3e-3)
    assert losses[-1] < 0.95 * losses[0]


def test_its_losses_are_means_over_a_sample() -> None:
    module, batch = autoencoder(), captioned(3)
    losses = values_of(module, batch, Draws(0, batch["position"]))
    posterior = module.vae.encode(drawn_images(batch, Draws(0, batch["position"]))).latent_dist
    torch.testing.assert_close(losses["kl"], posterior.kl() / (3 * 64 * 64))
    assert all(value.shape == (3,) for value in losses.values())
    assert (losses["squared"] <= losses["reconstruction"] * 3).all()


def test_a_frozen_encoder_gets_no_gradient() -> None:
    module = autoencoder(train_encoder=False)
    descend(module, captioned(1), steps=1, lr=1e-3)
    assert all(parameter.grad is None for parameter in module.vae.encoder.parameters())
    assert module.vae.decoder.conv_in.weight.grad is not None


def test_an_absent_target_is_replaced_by_the_source() -> None:
    batch = captioned(4)
    batch["has_target"] = torch.tensor([False, True, False, True])
    batch["has_source"] = torch.tensor([True, False, True, False])
    images = drawn_images(batch, Draws(0, batch["position"]))
    assert torch.equal(images[0], batch["source"][0])
    assert torch.equal(images[1], batch["target"][1])


def test_the_measured_scale_brings_latents_to_unit_variance(folder: Path) -> None:
    vae = load_vae(folder)
    batches = [captioned(128, seed, resolution=16) for seed in range(8)]
    scale, images = measure_scale(vae, [*batches, captioned(128, 8, resolution=16)])
    with torch.no_grad():
        latents = torch.cat([vae.encode(b[side]).latent_dist.mode() for b in batches for side in ("source", "target")])
    assert images == 2048
    assert (latents * scale).std().item() == pytest.approx(1.0, abs=1e-3)


def test_a_scale_from_few_images_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="at least 1000 images, the data gave 8"):
        measure_scale(load_vae(folder), [captioned(4)])


def test_a_pretrained_decoder_learns_targets_and_the_latents_stay(folder: Path) -> None:
    module, batch = finetuned_decoder(folder), captioned(2)
    batch["source"] = torch.full_like(batch["source"], float("nan"))  # of no use here
    losses = descend(module, batch, steps=12, lr=3e-3)
    assert losses[-1] < 0.9 * losses[0]
    assert {name.split(".")[1] for name in module.stored_names()} == {"decoder", "post_quant_conv"}
    before, after = load_vae(folder), module.vae.eval()
    latents = [vae.encode(batch["target"]).latent_dist.mode() for vae in (before, after)]
    torch.testing.assert_close(*latents, atol=1e-5, rtol=1e-5)
    errors = [(vae.decode(latents[0]).sample - batch["target"]).square().mean() for vae in (before, after)]
    assert errors[1] < 0.9 * errors[0]


def test_a_weight_for_another_loss_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="no loss 'lpips'; expected some of reconstruction, squared, kl"):
        FineTuneDecoder(OptimizerConfig(), {"lpips": 1.0}, str(folder))


def test_samples_without_target_do_not_count_for_the_decoder(folder: Path) -> None:
    batch = captioned(2)
    batch["has_target"] = torch.tensor([True, False])
    counts = counts_of(finetuned_decoder(folder), batch, Draws(0, batch["position"]))
    assert all(count.tolist() == [1.0, 0.0] for count in counts.values()) and len(counts) == 2


def test_the_text_to_image_unet_learns_a_batch(folder: Path) -> None:
    losses = descend(text_to_image(folder), captioned(4), steps=10, lr=3e-3)
    assert losses[-1] < 0.9 * losses[0]


def test_only_the_unet_trains(folder: Path) -> None:
    module = text_to_image(folder)
    trained = {name.split(".")[0] for name, parameter in module.named_parameters() if parameter.requires_grad}
    assert trained == {"unet"}
    assert {name.split(".")[0] for name in module.stored_names()} == {"unet"}


def test_one_side_only_reads_that_side(folder: Path) -> None:
    module, batch = text_to_image(folder, side="source", caption_drop=0.0), captioned(4)
    draws = Draws(0, batch["position"])
    before = values_of(module, batch, draws)["sdm"]
    batch["target"] = torch.zeros_like(batch["target"])
    torch.testing.assert_close(values_of(module, batch, draws)["sdm"], before)


def test_samples_without_caption_do_not_count(folder: Path) -> None:
    batch = captioned(2)
    batch["has_target_caption"] = torch.tensor([True, False])
    counts = counts_of(text_to_image(folder, side="target"), batch, Draws(0, batch["position"]))
    assert counts["sdm"].tolist() == [1.0, 0.0]
