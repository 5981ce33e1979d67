"""DDIM inversion: against diffusers' inverse scheduler, there and back, and flow matching."""

import pytest
import torch
from diffusers import (
    DDIMInverseScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.inversion import CLEAN, Ladder, invert, make_ladder, move, reconstruct, without_guidance
from mmig.diffusion.process import NoiseProcess

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
START, NOISE = torch.randn(2, 2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def any_denoiser(noisy: Tensor, timesteps: Tensor) -> Tensor:
    """Depends on the latents and on the timestep it is told, so that both must be right."""
    return 0.6 * noisy.roll(1, dims=-1) + 0.2 * torch.sin(noisy + timesteps.view(-1, 1, 1, 1) / 100)


class Exact:
    """Predicts the truth about latents that are a mixture of `clean` and `noise`, whatever level it is told."""

    def __init__(self, process: NoiseProcess, clean: Tensor, noise: Tensor) -> None:
        self.process, self.clean, self.noise = process, clean, noise

    def __call__(self, noisy: Tensor, timesteps: Tensor) -> Tensor:
        basis = torch.stack([self.clean.flatten(1), self.noise.flatten(1)], dim=-1).double()
        mixture = torch.linalg.lstsq(basis, noisy.flatten(1).double().unsqueeze(-1)).solution.float()
        a, s = (value.view(-1, 1, 1, 1) for value in mixture.squeeze(-1).unbind(-1))
        kinds = {"epsilon": self.noise, "v_prediction": a * self.noise - s * self.clean}
        return kinds.get(self.process.prediction, self.noise - self.clean)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("to_one", [True, False])
@pytest.mark.parametrize(
    ("spacing", "offset", "num_steps"), [("leading", 1, 20), ("trailing", 0, 20), ("leading", 0, 30)]
)
def test_inversion_equals_diffusers(prediction: str, to_one: bool, spacing: str, offset: int, num_steps: int) -> None:
    settings = SD | {"prediction_type": prediction, "set_alpha_to_one": to_one}
    settings |= {"timestep_spacing": spacing, "steps_offset": offset}
    theirs = DDIMInverseScheduler(**settings)
    theirs.set_timesteps(num_steps)
    expected = START
    for timestep in theirs.timesteps:
        expected = theirs.step(any_denoiser(expected, timestep.expand(2)), timestep, expected).prev_sample

    scheduler = DDIMScheduler(**settings)
    found = invert(any_denoiser, NoiseProcess.from_scheduler(scheduler), START, make_ladder(scheduler, num_steps))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("to_one", [True, False])
def test_reconstruction_equals_diffusers(prediction: str, to_one: bool) -> None:
    scheduler = DDIMScheduler(**SD, prediction_type=prediction, set_alpha_to_one=to_one, timestep_spacing="trailing")
    scheduler.set_timesteps(15)
    expected = NOISE
    for timestep in scheduler.timesteps:
        expected = scheduler.step(any_denoiser(expected, timestep.expand(2)), timestep, expected).prev_sample
    process = NoiseProcess.from_scheduler(scheduler)
    found = reconstruct(any_denoiser, process, NOISE, make_ladder(scheduler, 15))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_flow_matching_goes_back_by_euler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    process, ladder = NoiseProcess.from_scheduler(scheduler), make_ladder(scheduler, 10)
    scheduler.set_timesteps(10)
    expected = START
    for index in range(9, -1, -1):
        velocity = any_denoiser(expected, scheduler.timesteps[index].expand(2))
        expected = expected + (scheduler.sigmas[index] - scheduler.sigmas[index + 1]) * velocity
    torch.testing.assert_close(invert(any_denoiser, process, START, ladder), expected, atol=1e-5, rtol=1e-5)

    expected = NOISE
    for timestep in scheduler.timesteps:
        expected = scheduler.step(any_denoiser(expected, timestep.expand(2)), timestep, expected).prev_sample
    torch.testing.assert_close(reconstruct(any_denoiser, process, NOISE, ladder), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(**SD, set_alpha_to_one=True),
        DDIMScheduler(**SD, set_alpha_to_one=False, steps_offset=1),
        DDIMScheduler(**SD, set_alpha_to_one=False, prediction_type="v_prediction", timestep_spacing="trailing"),
        FlowMatchEulerDiscreteScheduler(shift=2.0),
    ],
    ids=["epsilon", "epsilon, alpha_0", "v, alpha_0", "flow"],
)
def test_there_and_back_with_an_exact_denoiser(scheduler: object) -> None:
    process, ladder = NoiseProcess.from_scheduler(scheduler), make_ladder(scheduler, 20)
    clean = START
    if (
        process.prediction != "flow" and not scheduler.config.set_alpha_to_one
    ):  # the start counts as x_0, a little noisy
        a, s = (value.item() for value in process.scales(torch.tensor([0])))
        clean = (START - s * NOISE) / a
    exact = Exact(process, clean, NOISE)
    noisy = invert(exact, process, START, ladder)
    a, s = (value.item() for value in process.scales(ladder.upper[-1:]))
    torch.testing.assert_close(noisy, a * clean + s * NOISE, atol=1e-4, rtol=0)
    torch.testing.assert_close(reconstruct(exact, process, noisy, ladder), START, atol=1e-4, rtol=0)


def test_strength_inverts_the_lowest_steps_only() -> None:
    scheduler = DDIMScheduler(**SD, steps_offset=1, set_alpha_to_one=False)
    whole, part = make_ladder(scheduler, 50), make_ladder(scheduler, 50, strength=0.3)
    assert whole.upper.tolist() == list(range(1, 982, 20))
    assert part.upper.tolist() == whole.upper.tolist()[:15]
    assert part.lower.tolist() == [0, *range(1, 262, 20)]
    assert len(part) == 15


def test_the_ladder_of_a_multistep_scheduler_is_that_of_ddim() -> None:
    pndm = PNDMScheduler(**{k: v for k, v in SD.items() if k != "clip_sample"}, skip_prk_steps=True, steps_offset=1)
    ladder = make_ladder(pndm, 10)
    assert ladder.upper.tolist() == list(range(1, 902, 100))
    assert ladder.lower[0] == 0
    assert make_ladder(DDIMScheduler(**SD), 10).lower[0] == CLEAN
    # the spacing is the scheduler's own, given or its class's default
    linspace = make_ladder(DPMSolverMultistepScheduler(), 10).upper
    assert linspace.tolist() == [round(value) for value in torch.linspace(0, 999, 10).tolist()]


def test_without_guidance_runs_one_branch() -> None:
    rows: list[int] = []

    def predict(noisy: Tensor, timesteps: Tensor, condition: Conditioning) -> Tensor:
        rows.append(len(noisy))
        return noisy * condition.tokens.mean()

    denoiser = without_guidance(predict, Conditioning(torch.full((2, 3, 5), 0.5)))
    torch.testing.assert_close(denoiser(START, torch.tensor([3, 3])), 0.5 * START)
    assert rows == [2]


def test_a_step_to_its_own_level_changes_nothing() -> None:
    process = NoiseProcess.from_scheduler(DDIMScheduler(**SD, prediction_type="v_prediction"))
    level = torch.tensor(400)
    torch.testing.assert_close(move(process, NOISE, START, level, level), START)


def test_inversion_keeps_no_graph() -> None:
    scheduler = DDIMScheduler(**SD)
    process, start = NoiseProcess.from_scheduler(scheduler), START.clone().requires_grad_()
    assert not invert(any_denoiser, process, start, make_ladder(scheduler, 2)).requires_grad


@pytest.mark.parametrize(("num_steps", "strength"), [(0, 1.0), (20, 0.0), (20, 1.2), (2, 0.4)])
def test_no_step_is_refused(num_steps: int, strength: float) -> None:
    with pytest.raises(ValueError, match="at least one step and a strength in"):
        make_ladder(DDIMScheduler(**SD), num_steps, strength)


def test_a_ladder_is_walked_in_pairs() -> None:
    pairs = list(Ladder(torch.tensor([-1, 4]), torch.tensor([4, 9])))
    assert [(int(lower), int(upper)) for lower, upper in pairs] == [(-1, 4), (4, 9)]
