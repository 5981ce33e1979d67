"""Autoencoder and text-to-image modules: what they learn, what they leave alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.backbones.diffusion import load_vae
from mmig.backbones.parts import BackboneError
from mmig.diffusion.fresh import UNetSize, fresh_unet
from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule, FineTuneDecoder, drawn_images
from mmig.methods.latent_diffusion.pipeline import open_editor
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


def test_another_autoencoder_takes_the_place_of_the_backbones(folder: Path, tmp_path: Path) -> None:
    other = build_stable_diffusion(tmp_path / "other", seed=9)
    module = text_to_image(folder, vae=str(other))
    assert torch.equal(module.vae.encoder.conv_in.weight, load_vae(other).encoder.conv_in.weight)
    assert module.origins["vae"].path == str(other) and module.origins["text_encoder"].path == str(folder)


def test_an_autoencoder_without_a_scale_is_one_line(folder: Path) -> None:
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": None}))
    said = r"scaling_factor: expected the measured scale of its latents, found None; measure it: python -m mmig"
    for opened in (lambda: text_to_image(folder), lambda: open_editor(str(folder))):
        with pytest.raises(BackboneError, match=said):
            opened()


def test_a_unet_of_another_text_width_is_one_line(folder: Path, tmp_path: Path) -> None:
    width = text_to_image(folder).text_encoder.config.hidden_size
    fresh_unet(SIZE, 4, 4, width + 16).save_pretrained(tmp_path / "wider" / "unet")
    with pytest.raises(BackboneError, match=rf"cross_attention_dim {width + 16}.* hidden_size {width}"):
        TextToImageModule(OptimizerConfig(), {"sdm": 1.0}, str(folder), str(tmp_path / "wider"))


def test_what_was_made_for_another_resolution_is_one_line(folder: Path, tmp_path: Path) -> None:
    assert text_to_image(folder, resolution=64).resolution == 64
    said = r"^unet: expected one for 128 pixels, .* found one for 64: latents of 16 \(sample_size\) at the factor 4"
    with pytest.raises(BackboneError, match=said):
        text_to_image(folder, resolution=128)
    module = text_to_image(folder, resolution=64)
    batch = captioned(2, resolution=32)
    with pytest.raises(ValueError, match=r"^data: expected images of 64 pixels, .* found 32 pixels; give --data"):
        values_of(module, batch, Draws(0, batch["position"]))


@pytest.mark.parametrize(
    ("widths", "attends", "parameters"),
    [
        ([320, 640, 1280, 1280], [True, True, True, False], 859_520_964),
        ([192, 384, 384, 768, 768], [True, True, True, True, False], 354_158_788),
        ([256, 512, 1024], True, 400_096_004),
    ],
)
def test_unets_have_the_sizes_that_others_counted(widths: list[int], attends: Any, parameters: int) -> None:
    """Stable Diffusion's for CLIP ViT-L/14, and two of Rombach et al.'s widths."""
    with torch.device("meta"):
        unet = fresh_unet(UNetSize(widths, sample_size=32, attends=attends), 4, 4, 768)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters


def test_attention_at_other_resolutions_than_there_are_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^unet\.attends: expected a value for each of 2 resolutions, found 3$"):
        fresh_unet(UNetSize([16, 32], attends=[True, True, False]), 4, 4, 32)
