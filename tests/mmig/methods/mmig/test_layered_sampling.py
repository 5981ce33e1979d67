"""Layered sampling: the alternation by step index, and the edit as a whole."""

from collections import Counter

import pytest
import torch
from diffusers import DDIMScheduler, HeunDiscreteScheduler
from torch import Tensor

from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.guidance import Predict, guided, text_guidance
from mmig.diffusion.sampling import Denoiser, sample
from mmig.methods.mmig.layered_sampling import (
    LayeredEdit,
    LayeredSampling,
    by_step,
    layered_denoiser,
    layered_edit,
)
from tests.mmig.methods.mmig.layered_support import CLEAN, MASK, NOISE, SCHEDULER, SD, TOKENS, listening_unet, seeds
from tests.tiny_fixtures import TEXT_WIDTH


@pytest.fixture(scope="module")
def predict(tmp_path_factory: pytest.TempPathFactory) -> Predict:
    unet = listening_unet(tmp_path_factory.mktemp("unet"))
    return lambda noisy, timesteps, condition: denoise(unet, noisy, timesteps, condition)


def test_half_of_the_steps_see_the_object_by_index_not_by_timestep() -> None:
    asked: list[tuple[str, int]] = []

    def named(name: str) -> Denoiser:
        def denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
            asked.append((name, int(timesteps[0])))
            return torch.zeros_like(noisy)

        return denoiser

    sample(layered_denoiser(named("object"), named("mixed"), SCHEDULER), SCHEDULER, (4, 8, 8), 50, seeds(0))
    assert Counter(name for name, _ in asked) == {"object": 25, "mixed": 25}
    assert [name for name, _ in asked[:3]] == ["object", "mixed", "object"]
    assert all(timestep % 2 == 1 for _, timestep in asked)  # so that an even timestep would never come

    asked.clear()
    heun = HeunDiscreteScheduler(**{key: SD[key] for key in ("beta_start", "beta_end", "beta_schedule")})
    sample(layered_denoiser(named("object"), named("mixed"), heun), heun, (4, 8, 8), 3, seeds(0))
    assert [name for name, _ in asked] == ["object", "object", "mixed", "mixed", "object"]


def test_alternating_between_twins_changes_nothing() -> None:
    def denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
        return 0.1 * noisy + timesteps.view(-1, 1, 1, 1) / 1e4

    layered = sample(layered_denoiser(denoiser, denoiser, SCHEDULER), SCHEDULER, (4, 8, 8), 10, seeds(0, 1))
    assert torch.equal(layered, sample(denoiser, SCHEDULER, (4, 8, 8), 10, seeds(0, 1)))


def test_a_denoiser_by_step_counts_its_calls() -> None:
    told: list[int] = []

    def at(index: int) -> Denoiser:
        told.append(index)
        return lambda noisy, timesteps: noisy

    denoiser = by_step(at, calls_per_step=2)
    for _ in range(5):
        denoiser(NOISE, torch.tensor([1, 1]))
    assert told == [0, 0, 1, 1, 2]


def test_an_edit_alternates_between_object_and_mixture(predict: Predict) -> None:
    config = LayeredSampling(inner_steps=0, num_steps=4, strength=1.0, alpha=0.6)
    null = torch.zeros(2, 7, TEXT_WIDTH)

    def under(states: Tensor) -> Denoiser:
        return guided(predict, {"full": Conditioning(states), "null": Conditioning(null)}, text_guidance(2.0))

    found, before, after = layered_edit(predict, under, SCHEDULER, CLEAN, TOKENS, MASK, seeds(4, 5), config)
    assert before is after
    with torch.no_grad():
        mixture = 0.6 * TOKENS.object + 0.4 * TOKENS.background
        scheduler = DDIMScheduler.from_config(SCHEDULER.config)
        scheduler.set_timesteps(4)
        noise = torch.stack([torch.randn(4, 16, 16, generator=source) for source in seeds(4, 5)])
        expected = scheduler.add_noise(CLEAN, noise, scheduler.timesteps[:1])
        for states, timestep in zip([TOKENS.object, mixture] * 2, scheduler.timesteps, strict=True):
            told = timestep.expand(2)
            full = predict(expected, told, Conditioning(states))
            empty = predict(expected, told, Conditioning(null))
            expected = scheduler.step(empty + 2.0 * (full - empty), timestep, expected).prev_sample
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_inner_steps_lower_eq_15_and_change_the_edit_but_not_its_noise(predict: Predict) -> None:
    def edit(inner_steps: int) -> tuple[LayeredEdit, Tensor]:
        first: list[Tensor] = []

        def watched(states: Tensor) -> Denoiser:
            def denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
                first.append(noisy)
                return predict(noisy, timesteps, Conditioning(states))

            return denoiser

        config = LayeredSampling(inner_steps=inner_steps, lr=0.05, num_steps=2, strength=1.0)
        return layered_edit(predict, watched, SCHEDULER, CLEAN, TOKENS, MASK, seeds(4, 5), config), first[0]

    (plain, noisy), (optimised, same_noisy) = edit(0), edit(10)
    assert torch.equal(noisy, same_noisy)
    assert (plain.latents - optimised.latents).abs().max() > 1e-4
    assert torch.equal(optimised.loss_before, plain.loss_after)
    assert (optimised.loss_after < 0.999 * optimised.loss_before).all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"inner_steps": -1}, "sampling.inner_steps: expected a whole number of at least 0, found -1"),
        ({"lr": 0.0}, "sampling.lr: expected above 0"),
        ({"mask_mode": "sky"}, "sampling.mask_mode: expected one of object, background, all, found 'sky'"),
        ({"alpha": 1.5}, r"sampling.alpha: expected a finite number in \[0, 1\], found 1.5"),
        ({"strength": 2.0}, r"sampling.strength: expected a finite number in \[0, 1\]"),
        ({"response": "none"}, "sampling.response"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_step(setting: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayeredSampling(**setting)
