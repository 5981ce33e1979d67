"""The reverse process: any scheduler, per-sample generators, img2img."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import draw_noise, per_sample, sample

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CLEAN = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(3))
SCHEDULERS = [
    DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, timestep_spacing="trailing"),
    DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction"),
    PNDMScheduler(**SD, skip_prk_steps=True),
    DPMSolverMultistepScheduler(**SD),
    EulerAncestralDiscreteScheduler(**SD),
    HeunDiscreteScheduler(**SD),
    FlowMatchEulerDiscreteScheduler(shift=2.0),
]


def seeds(*values: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(value) for value in values]


class Oracle:
    """Predicts what leads to CLEAN, whatever the scheduler wants predicted."""

    def __init__(self, scheduler: object, clean: torch.Tensor = CLEAN) -> None:
        self.process, self.clean = NoiseProcess.from_scheduler(scheduler), clean
        self.sigma_space = "Euler" in type(scheduler).__name__ or "Heun" in type(scheduler).__name__

    def __call__(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        if self.process.prediction != "flow":
            timesteps = timesteps.long()
        a, s = (value.view(-1, 1, 1, 1) for value in self.process.scales(timesteps))
        noise = (noisy - a * self.clean) / s
        return self.process.target(self.clean, noise, timesteps)


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: type(scheduler).__name__)
def test_a_perfect_denoiser_reaches_the_clean_latents(scheduler: object) -> None:
    result = sample(Oracle(scheduler), scheduler, (4, 8, 8), 20, seeds(0, 1, 2))
    assert (result - CLEAN).abs().mean() < 0.05


@pytest.mark.parametrize("scheduler", SCHEDULERS, ids=lambda scheduler: type(scheduler).__name__)
def test_a_perfect_denoiser_reaches_the_clean_latents_from_a_source(scheduler: object) -> None:
    result = sample(Oracle(scheduler), scheduler, (4, 8, 8), 20, seeds(0, 1, 2), source_latents=-CLEAN, strength=0.7)
    assert (result - CLEAN).abs().mean() < 0.05


def test_strength_zero_returns_the_source() -> None:
    scheduler = SCHEDULERS[0]
    result = sample(Oracle(scheduler), scheduler, (4, 8, 8), 10, seeds(0, 1, 2), source_latents=CLEAN, strength=0.0)
    assert torch.equal(result, CLEAN)


def test_strength_out_of_range_is_refused() -> None:
    with pytest.raises(ValueError, match="strength must be in"):
        sample(Oracle(SCHEDULERS[0]), SCHEDULERS[0], (4, 8, 8), 10, seeds(0), strength=1.5)


def test_img2img_starts_at_the_noise_level_of_the_strength() -> None:
    seen: list[int] = []

    def denoiser(noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        seen.append(int(timesteps[0]))
        return noisy

    sample(denoiser, SCHEDULERS[0], (4, 8, 8), 20, seeds(0, 1, 2), source_latents=CLEAN, strength=0.6)
    assert seen[0] == 599
    assert len(seen) == 12


def test_a_sample_does_not_depend_on_its_batch() -> None:
    scheduler = EulerAncestralDiscreteScheduler(**SD)
    together = sample(lambda noisy, _: noisy * 0.1, scheduler, (4, 8, 8), 8, seeds(5, 6))
    alone = sample(lambda noisy, _: noisy * 0.1, scheduler, (4, 8, 8), 8, seeds(6))
    torch.testing.assert_close(together[1:], alone)


def test_sampling_leaves_the_scheduler_as_it_was() -> None:
    scheduler = DDIMScheduler(**SD)
    before = scheduler.timesteps.clone()
    sample(lambda noisy, _: noisy, scheduler, (4, 8, 8), 4, seeds(0))
    assert torch.equal(scheduler.timesteps, before)


def test_one_generator_is_split_into_one_a_sample() -> None:
    noise = draw_noise((4, 8, 8), per_sample(torch.Generator().manual_seed(1), 2))
    again = draw_noise((4, 8, 8), per_sample(torch.Generator().manual_seed(1), 2))
    assert torch.equal(noise, again)
    assert not torch.equal(noise[0], noise[1])


def test_a_wrong_number_of_generators_is_refused() -> None:
    with pytest.raises(ValueError, match="each of 3 samples, found 2"):
        per_sample(seeds(0, 1), 3)


def test_more_steps_than_the_schedule_has_are_refused_in_our_words() -> None:
    with pytest.raises(ValueError, match=r"^num_steps: expected at most 1000, the steps of DDIMScheduler, found 1001$"):
        sample(lambda noisy, _: noisy, DDIMScheduler(**SD), (4, 8, 8), 1001, seeds(0))


@pytest.mark.parametrize("num_steps", [0, -3])
def test_a_number_of_steps_that_there_cannot_be_is_refused(num_steps: int) -> None:
    with pytest.raises(ValueError, match=f"num_steps: expected a whole number of at least 1, found {num_steps}"):
        sample(lambda noisy, _: noisy, DDIMScheduler(**SD), (4, 8, 8), num_steps, seeds(0))


def test_sources_need_a_generator_each() -> None:
    with pytest.raises(ValueError, match="expected one a source, of 3, found 1"):
        sample(lambda noisy, _: noisy, DDIMScheduler(**SD), (4, 8, 8), 2, seeds(0), source_latents=CLEAN)
