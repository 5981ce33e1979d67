"""Equations 1 to 4 of the course project (Lakhani & Li, Multimodal Generative Model for Image Manipulation) against the
schedulers and losses that are used here, and their misprints against what was meant.

Its alpha_t is the product of all 1 - beta up to t, diffusers' `alphas_cumprod`.
"""

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from mmig.diffusion.losses import noise_loss
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import sample

SHAPE = (2, 4, 8, 8)


@pytest.fixture
def scheduler() -> DDPMScheduler:
    """Stable Diffusion's betas; sigma_t^2 = beta_t in the reverse process."""
    settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    return DDPMScheduler(**settings, variance_type="fixed_large")


def alphas_by_hand(start: float, end: float) -> Tensor:
    """alpha_t of betas that are linear in their square roots, float64 [1000]."""
    betas = [(start**0.5 + (end**0.5 - start**0.5) * step / 999) ** 2 for step in range(1000)]
    kept, product = [], 1.0
    for beta in betas:
        product *= 1 - beta
        kept.append(product)
    return torch.tensor(kept, dtype=torch.float64)


def noised() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(SHAPE), torch.randn(SHAPE), torch.tensor([10, 200])


SCHEDULES = [(0.00085, 0.012, 0.00466), (0.0015, 0.0155, 0.000669), (0.0015, 0.0195, 0.000142)]


@pytest.mark.parametrize(("start", "end", "last"), SCHEDULES)
def test_what_ldm_calls_linear_is_linear_in_the_root(start: float, end: float, last: float) -> None:
    """Rombach et al.'s three schedules, by the noise that is left at the end."""
    scheduler = DDPMScheduler(beta_start=start, beta_end=end, beta_schedule="scaled_linear")
    by_hand = alphas_by_hand(start, end)
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), by_hand, rtol=1e-4, atol=0)
    assert float(by_hand[-1]) == pytest.approx(last, rel=5e-3)


def test_equation_2_with_the_root_that_is_missing(scheduler: DDPMScheduler) -> None:
    """Printed is (1 - alpha_t) w; with it x_t of unit variance would lose it."""
    clean, noise, timesteps = noised()
    alpha = alphas_by_hand(0.00085, 0.012)[timesteps].view(-1, 1, 1, 1).float()
    meant = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
    ours = NoiseProcess.from_scheduler(scheduler).add_noise(clean, noise, timesteps)
    torch.testing.assert_close(ours, meant, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scheduler.add_noise(clean, noise, timesteps), meant, rtol=1e-4, atol=1e-5)
    printed = alpha.sqrt() * clean + (1 - alpha) * noise
    assert float((printed - meant)[1].abs().mean()) > 0.1
    assert float((alpha + (1 - alpha) ** 2)[1]) < 0.85  # the printed variance; that of what is meant is 1


def test_equations_1_and_3_are_the_mean_squared_error_of_the_noise(scheduler: DDPMScheduler) -> None:
    """Printed is the squared norm, which is this mean times the number of values; (1) leaves out the condition."""
    clean, noise, timesteps = noised()
    prediction, process = torch.randn(SHAPE), NoiseProcess.from_scheduler(scheduler)
    loss = noise_loss(prediction, process.target(clean, noise, timesteps), process.weight(timesteps))
    squared_norm = torch.stack([(row - other).norm() ** 2 for row, other in zip(noise, prediction, strict=True)])
    torch.testing.assert_close(loss * noise[0].numel(), squared_norm, rtol=1e-5, atol=0)


@pytest.mark.parametrize("step", [0, 1, 500, 999])
def test_equation_4_is_the_schedulers_step_to_t_minus_1(scheduler: DDPMScheduler, step: int) -> None:
    """Printed is x_t on both sides; the left one is x_{t-1}."""
    scheduler.set_timesteps(1000)
    torch.manual_seed(1)
    noisy, prediction = torch.randn(SHAPE), torch.randn(SHAPE)
    found = scheduler.step(prediction, step, noisy, generator=torch.Generator().manual_seed(2)).prev_sample
    alphas = alphas_by_hand(0.00085, 0.012)
    before = float(alphas[step - 1]) if step else 1.0
    beta = 1 - float(alphas[step]) / before
    z = torch.randn(SHAPE, generator=torch.Generator().manual_seed(2)) if step else torch.zeros(SHAPE)
    meant = (noisy - beta / (1 - float(alphas[step])) ** 0.5 * prediction) / (1 - beta) ** 0.5 + beta**0.5 * z
    torch.testing.assert_close(found, meant, rtol=1e-3, atol=1e-3)


def test_the_way_back_takes_equation_4_at_every_step() -> None:
    """A denoiser that knows the clean latents comes to them, by `sample` with this scheduler."""
    scheduler = DDPMScheduler(num_train_timesteps=20, beta_end=0.2, clip_sample=False, variance_type="fixed_large")
    clean = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))
    process = NoiseProcess.from_scheduler(scheduler)

    def knows(noisy: Tensor, timesteps: Tensor) -> Tensor:
        a, s = process.scales(timesteps)
        return (noisy - a.view(-1, 1, 1, 1) * clean) / s.view(-1, 1, 1, 1)

    generators = [torch.Generator().manual_seed(row) for row in range(2)]
    found = sample(knows, scheduler, SHAPE[1:], 20, generators)
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3)
