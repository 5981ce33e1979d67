"""Algorithm 1 line by line: retrieval (A8), inversion (A9), mixing of noise (A10) and of conditions (A11)."""

import math

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler

from mmig.diffusion.conditioning import denoise
from mmig.methods.instruct_any2pix.algorithm import mix_conditions, mix_noise, retrieve
from mmig.methods.instruct_any2pix.decoder import Decoder, load_decoder
from mmig.methods.instruct_any2pix.inverting import InversionError, Inverter
from tests.mmig.methods.instruct_any2pix.support import WIDTH, decoder_folder, unit

SIZE = (64, 64)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return load_decoder(decoder_folder(), WIDTH)


def inverter(decoder: Decoder, num_steps: int) -> Inverter:
    return Inverter(decoder.vae, decoder.unet, decoder.scheduler, num_steps)


def test_the_nearest_picture_is_found_by_cosine_and_never_a_sound():
    base = torch.tensor([[1.0, 0.2], [1.0, 0.2], [1.0, 0.2]])
    candidates = torch.tensor([[9.0, 9.0], [1.0, 0.0], [0.1, 0.02]]).expand(3, -1, -1)  # cosines 0.83, 0.98, 1
    allowed = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    assert retrieve(base, candidates, allowed).tolist() == [2, 1, -1]


def test_of_two_equal_pictures_the_first_is_edited():
    twice = unit(1, 1, WIDTH).expand(1, 3, WIDTH)
    assert retrieve(unit(1, WIDTH, seed=4), twice, torch.ones(1, 3, dtype=torch.bool)).tolist() == [0]


def test_with_nothing_attached_nothing_is_found():
    assert retrieve(unit(2, WIDTH), torch.zeros(2, 0, WIDTH), torch.zeros(2, 0, dtype=torch.bool)).tolist() == [-1, -1]


def test_alpha_of_1_keeps_the_inverted_latents_bit_for_bit():
    inverted, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    assert torch.equal(mix_noise(inverted, noise, 1.0), inverted)


@pytest.mark.parametrize("alpha", [0.7, 0.5, 0.3, 0.0])
def test_mixed_noise_has_the_norm_of_the_inverted_latents_of_each_sample(alpha: float):
    generator = torch.Generator().manual_seed(0)
    inverted = torch.randn(2, 4, 64, 64, generator=generator) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    noise = torch.randn(2, 4, 64, 64, generator=generator)
    found = mix_noise(inverted, noise, alpha)
    torch.testing.assert_close(found.flatten(1).norm(dim=1), inverted.flatten(1).norm(dim=1))
    direction = alpha * inverted + (1 - alpha) * noise
    cosine = torch.nn.functional.cosine_similarity(found.flatten(1), direction.flatten(1))
    torch.testing.assert_close(cosine, torch.ones(2))
    raw = direction[0].norm() / inverted[0].norm()
    assert raw.item() == pytest.approx(math.sqrt(alpha**2 + (1 - alpha) ** 2), abs=0.02)  # 0.7616, 0.7071, ...


def test_conditions_are_mixed_as_written_whatever_their_lengths():
    refined, gen, base = (unit(3, WIDTH, seed=seed) for seed in range(3))
    expected = refined + gen + 0.4 * base
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(mix_conditions(refined, gen, base, 0.4), expected)
    torch.testing.assert_close(mix_conditions(20 * refined, 3 * gen, 7 * base, 0.4), expected)


def test_the_released_weights_of_beta_1_1_give_the_direction_of_the_paper():
    """h0 H_k + h1 H_gen + h2 20 prior / ||prior|| of vectors of length 20, h = (beta, 1, 1)."""
    refined, gen, base = (unit(3, WIDTH, seed=seed) for seed in range(3))
    released = 0.4 * 20 * base + 20 * gen + 20 * refined
    cosine = torch.nn.functional.cosine_similarity(released, mix_conditions(refined, gen, base, 0.4))
    torch.testing.assert_close(cosine, torch.ones(3))


def test_without_the_prior_and_beta_the_condition_is_the_language_models():
    gen = unit(2, WIDTH)
    zero = torch.zeros_like(gen)
    torch.testing.assert_close(mix_conditions(zero, gen, zero, 0.5, prior_weight=0.0), gen)


@torch.no_grad()
def test_inversion_is_that_of_diffusers_under_no_condition_and_without_guidance(decoder: Decoder):
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    null = decoder.branches(unit(2, WIDTH), SIZE)["null"]
    found = inverter(decoder, 5).invert(images, null, ["a", "b"])
    settings = {**decoder.scheduler.config, "clip_sample": False, "set_alpha_to_one": False}
    scheduler = DDIMInverseScheduler.from_config(settings, timestep_spacing="leading")
    scheduler.set_timesteps(5)
    latents = 0.5 * decoder.vae.encode(images).latent_dist.mode()
    for timestep in scheduler.timesteps:
        predicted = denoise(decoder.unet, latents, timestep, null)
        latents = scheduler.step(predicted, timestep, latents).prev_sample
    torch.testing.assert_close(found, latents, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_drawing_is_that_of_ddim_whatever_sampler_the_folder_names(decoder: Decoder):
    assert type(decoder.scheduler).__name__ == "PNDMScheduler"
    noisy = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    branches = decoder.branches(unit(1, WIDTH), SIZE)
    found = inverter(decoder, 4).draw(noisy, branches, 3.0)
    scheduler = DDIMScheduler.from_config(
        {**decoder.scheduler.config, "clip_sample": False, "set_alpha_to_one": False}, timestep_spacing="leading"
    )
    scheduler.set_timesteps(4)
    latents = noisy
    for timestep in scheduler.timesteps:
        full, null = (denoise(decoder.unet, latents, timestep, branches[name]) for name in ("full", "null"))
        latents = scheduler.step(null + 3.0 * (full - null), timestep, latents).prev_sample
    expected = decoder.vae.decode(latents / 0.5).sample.clamp(-1, 1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@torch.no_grad()
def test_latents_that_are_no_numbers_are_refused_by_sample(decoder: Decoder):
    images = torch.zeros(2, 3, 64, 64)
    images[1] = torch.nan
    null = decoder.branches(unit(2, WIDTH), SIZE)["null"]
    with pytest.raises(InversionError, match=r"^sample 'b': the autoencoder gives values that are no numbers"):
        inverter(decoder, 3).invert(images, null, ["a", "b"])


@torch.no_grad()
def test_latents_that_are_far_from_noise_are_refused_by_sample(decoder: Decoder):
    images = 1e4 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    null = decoder.branches(unit(1, WIDTH), SIZE)["null"]
    weight = decoder.vae.quant_conv.weight
    kept = weight.clone()
    weight.mul_(1e3)
    with pytest.raises(InversionError, match=r"^sample 'a': expected inverted latents of a standard deviation"):
        inverter(decoder, 3).invert(images, null, ["a"])
    weight.copy_(kept)
