"""Latents, the noise loss and the condition of a denoiser."""

from pathlib import Path

import pytest
import torch

from mmig.backbones.diffusion import load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.diffusion.conditioning import Conditioning, concatenate, denoise
from mmig.diffusion.latents import decode, encode, encode_unscaled, latent_shape, normalise, unnormalise
from mmig.diffusion.losses import noise_loss
from mmig.diffusion.text import encode_text
from tests.tiny_fixtures import build_stable_diffusion

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stable_diffusion(tmp_path_factory.mktemp("backbones") / "stable-diffusion")


def test_encoding_shifts_then_scales_the_mode(folder: Path) -> None:
    vae = load_vae(folder)
    vae.register_to_config(scaling_factor=0.25, shift_factor=0.5)
    raw = vae.encode(IMAGES).latent_dist.mode()
    assert torch.equal(encode_unscaled(vae, IMAGES), raw)
    torch.testing.assert_close(encode(vae, IMAGES), (raw - 0.5) * 0.25)
    torch.testing.assert_close(unnormalise(vae, normalise(vae, raw)), raw)


def test_a_sample_of_the_posterior_is_mean_plus_deviation_times_noise(folder: Path) -> None:
    vae = load_vae(folder)
    posterior = vae.encode(IMAGES).latent_dist
    noise = torch.randn(posterior.mean.shape)
    expected = (posterior.mean + posterior.std * noise) * vae.config.scaling_factor
    torch.testing.assert_close(encode(vae, IMAGES, noise), expected)


def test_decoding_undoes_the_scale(folder: Path) -> None:
    vae = load_vae(folder)
    raw = encode_unscaled(vae, IMAGES)
    torch.testing.assert_close(decode(vae, encode(vae, IMAGES)), vae.decode(raw).sample)


def test_latent_shape_names_a_side_that_does_not_fit(folder: Path) -> None:
    vae = load_vae(folder)
    assert latent_shape(vae, 64, 96) == (4, 16, 24)
    with pytest.raises(ValueError, match="62x64 pixels: both sides must be multiples of 4"):
        latent_shape(vae, 62, 64)


def test_noise_loss_is_a_mean_for_each_sample_in_float32() -> None:
    prediction = torch.tensor([[3.0, 4.0, 0.0, 12.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float16).view(2, 1, 2, 2)
    loss = noise_loss(prediction, torch.zeros_like(prediction), torch.tensor([1.0, 0.5]))
    assert loss.dtype == torch.float32
    assert loss.tolist() == [(9 + 16 + 144) / 4, 0.5]


def test_image_latents_are_appended_to_the_noisy_ones(folder: Path) -> None:
    unet = load_unet(folder, in_channels=8)
    with torch.no_grad():
        unet.conv_in.weight[:, 4:] = torch.randn(unet.conv_in.weight[:, 4:].shape)
    noisy, image, tokens = torch.randn(2, 4, 16, 16), torch.randn(2, 4, 16, 16), torch.randn(2, 7, 32)
    timesteps = torch.tensor([3, 900])
    expected = unet(torch.cat([noisy, image], dim=1), timesteps, encoder_hidden_states=tokens).sample
    torch.testing.assert_close(denoise(unet, noisy, timesteps, Conditioning(tokens, image_latents=image)), expected)


def test_masked_tokens_do_not_change_the_prediction(folder: Path) -> None:
    unet = load_unet(folder)
    noisy, timesteps, tokens = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 6, 32)
    mask = torch.tensor([[True, True, True, True, False, False]])
    masked = denoise(unet, noisy, timesteps, Conditioning(tokens, mask=mask))
    shorter = denoise(unet, noisy, timesteps, Conditioning(tokens[:, :4]))
    torch.testing.assert_close(masked, shorter, atol=1e-5, rtol=1e-4)


def test_joined_conditions_keep_their_rows() -> None:
    parts = [Conditioning(torch.full((2, 3, 4), value), pooled=torch.full((2, 5), value)) for value in (1.0, 2.0)]
    joined = concatenate(parts)
    assert joined.tokens.mean(dim=(1, 2)).tolist() == [1, 1, 2, 2]
    assert joined.pooled is not None
    assert joined.pooled[:, 0].tolist() == [1, 1, 2, 2]
    assert joined.image_latents is None


def test_text_states_are_the_encoders_last_and_as_long_as_its_context(folder: Path) -> None:
    encoder, tokenizer = load_text_encoder(folder), load_tokenizer(folder)
    states, _ = encode_text(encoder, tokenizer, ["a red circle", ""])
    assert states.shape == (2, 77, 32)
    torch.testing.assert_close(encode_text(encoder, tokenizer, [""])[0][0], states[1], atol=1e-5, rtol=1e-4)
