"""The denoising problem against diffusers: what is noised and what must be answered."""

import pytest
import torch
from diffusers import DDPMScheduler

from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.problem import denoising_problem
from mmig.diffusion.process import NoiseProcess

CLEAN, NOISE = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
TIMESTEPS = torch.tensor([0, 500, 999])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_latents_are_noised_and_answered_as_in_diffusers(prediction: str) -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction)
    condition = Conditioning(torch.zeros(3, 1, 2))
    problem = denoising_problem(NoiseProcess.from_scheduler(scheduler), CLEAN, NOISE, TIMESTEPS, condition)
    torch.testing.assert_close(problem.noisy, scheduler.add_noise(CLEAN, NOISE, TIMESTEPS))
    velocity = scheduler.get_velocity(CLEAN, NOISE, TIMESTEPS)
    torch.testing.assert_close(problem.target, NOISE if prediction == "epsilon" else velocity)
    assert problem.condition is condition and torch.equal(problem.timesteps, TIMESTEPS)


def test_the_noise_keeps_its_precision_beside_latents_of_less() -> None:
    process = NoiseProcess("flow")
    condition = Conditioning(torch.zeros(3, 1, 2))
    problem = denoising_problem(process, CLEAN.bfloat16(), NOISE, TIMESTEPS.float(), condition)
    assert torch.equal(problem.noise, NOISE) and problem.target.dtype == torch.float32
