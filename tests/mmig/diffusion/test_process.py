"""Numbers of the noise process, against independent formulas and diffusers."""

import math
from statistics import NormalDist

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from mmig.diffusion.process import NoiseProcess, ScheduleError

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
# alphas_cumprod of Stable Diffusion 1.5 as measured in the dossier
KNOWN = {0: 0.99915, 20: 0.981314, 100: 0.894223, 250: 0.673792, 500: 0.276332, 750: 0.05617, 999: 0.00466}


def make(prediction: str) -> NoiseProcess:
    if prediction == "flow":
        return NoiseProcess.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0))
    return NoiseProcess.from_scheduler(DDPMScheduler(**SD, prediction_type=prediction))


def draw(process: NoiseProcess, size: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    timesteps = process.sample_timesteps(torch.rand(size, generator=source))
    clean, noise = torch.randn(2, size, 4, 16, 16, generator=source)
    return clean, noise, timesteps


@pytest.mark.parametrize(("timestep", "expected"), KNOWN.items())
def test_the_schedule_is_that_of_stable_diffusion(timestep: int, expected: float) -> None:
    a, s = make("epsilon").scales(torch.tensor([timestep]))
    assert a.item() ** 2 == pytest.approx(expected, abs=6e-6)
    assert s.item() ** 2 == pytest.approx(1 - expected, abs=6e-6)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_x0_and_noise_come_back_from_the_true_target(prediction: str) -> None:
    process = make(prediction)
    clean, noise, timesteps = draw(process)
    timesteps = timesteps.clamp(max=981)
    noisy, target = process.add_noise(clean, noise, timesteps), process.target(clean, noise, timesteps)
    assert (process.x0_from(target, noisy, timesteps) - clean).abs().max() < 5e-6
    assert (process.noise_from(target, noisy, timesteps) - noise).abs().max() < 5e-6


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noising_and_target_agree_with_diffusers(prediction: str) -> None:
    process, scheduler = make(prediction), DDPMScheduler(**SD, prediction_type=prediction)
    clean, noise, timesteps = draw(process)
    theirs = noise if prediction == "epsilon" else scheduler.get_velocity(clean, noise, timesteps)
    torch.testing.assert_close(process.add_noise(clean, noise, timesteps), scheduler.add_noise(clean, noise, timesteps))
    torch.testing.assert_close(process.target(clean, noise, timesteps), theirs)


def test_flow_matching_is_the_straight_line_of_diffusers() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    process = NoiseProcess.from_scheduler(scheduler)
    clean, noise = torch.randn(2, 5, 4, 8, 8)
    timesteps = scheduler.timesteps[[0, 100, 500, 900, 999]]
    expected = torch.cat([scheduler.scale_noise(clean[i : i + 1], timesteps[i : i + 1], noise[i]) for i in range(5)])
    torch.testing.assert_close(process.add_noise(clean, noise, timesteps), expected)
    assert torch.equal(process.target(clean, noise, timesteps), noise - clean)


def test_training_timesteps_of_flow_matching_follow_the_shift() -> None:
    uniform = torch.tensor([0.0, 0.5, 0.75])
    expected = 1000 * torch.tensor([1.0, 3 * 0.5 / 2.0, 3 * 0.25 / 1.5])
    torch.testing.assert_close(make("flow").sample_timesteps(uniform), expected)


def test_training_timesteps_are_uniform_over_the_schedule() -> None:
    timesteps = make("epsilon").sample_timesteps((torch.arange(10_000) + 0.5) / 10_000)
    assert torch.equal(timesteps.bincount(), torch.full((1000,), 10))


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_an_exponent_below_one_favours_noisy_timesteps(prediction: str) -> None:
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    timesteps = make(prediction).sample_timesteps(uniform, exponent=0.5).float() / 1000
    first = (timesteps < 0.5).float().mean().item()
    # t = sqrt(u): a quarter of the draws lies in the first half; the shift of make("flow") moves its middle
    assert first == pytest.approx(0.25 if prediction == "epsilon" else 0.0625, abs=2e-3)
    assert timesteps.min() >= 0
    assert timesteps.max() <= 1


def test_noisier_timesteps_stop_at_the_noisiest() -> None:
    assert make("epsilon").noisier(torch.tensor([0, 975, 990]), 20).tolist() == [20, 995, 999]
    assert make("flow").noisier(torch.tensor([0.5, 990.0]), 20).tolist() == [20.5, 1000.0]


def test_whether_noisier_timesteps_exist() -> None:
    assert make("epsilon").has_noisier(torch.tensor([0, 979, 980, 999]), 20).tolist() == [True, True, False, False]
    near = torch.tensor([0.1, 979.99, 980.0, 980.1, 1000.0])  # float32: 0.1 + 20 - 0.1 is less than 20
    assert make("flow").has_noisier(near, 20).tolist() == [True, True, True, False, False]


def test_min_snr_weighs_the_error_of_x0_alike_for_every_prediction() -> None:
    timesteps = torch.tensor([100, 500, 900])
    epsilon, velocity = make("epsilon"), make("v_prediction")
    a, s = epsilon.scales(timesteps)
    x0_error = (a / s) ** 2
    # epsilon's squared error is SNR times that of x0, the velocity's 1 + SNR times
    torch.testing.assert_close(epsilon.weight(timesteps, "min_snr") * x0_error, x0_error.clamp(max=5.0))
    torch.testing.assert_close(velocity.weight(timesteps, "min_snr") * (1 + x0_error), x0_error.clamp(max=5.0))


def test_uniform_weights_are_one() -> None:
    assert torch.equal(make("flow").weight(torch.tensor([10.0, 900.0])), torch.ones(2))


def test_samplers_of_one_schedule_give_one_process() -> None:
    timesteps = torch.arange(1000)
    ddim, euler = (NoiseProcess.from_scheduler(kind(**SD)) for kind in (DDIMScheduler, EulerDiscreteScheduler))
    torch.testing.assert_close(ddim.scales(timesteps), euler.scales(timesteps))


def test_an_unknown_prediction_is_refused_by_name() -> None:
    with pytest.raises(ScheduleError, match="DDPMScheduler: prediction_type 'sample'; expected epsilon"):
        NoiseProcess.from_scheduler(DDPMScheduler(**SD, prediction_type="sample"))


def test_a_shift_that_depends_on_the_image_leaves_training_without() -> None:
    process = NoiseProcess.from_scheduler(FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True))
    uniform = torch.tensor([0.0, 0.25, 0.9])
    torch.testing.assert_close(process.sample_timesteps(uniform), 1000 * (1 - uniform))


def test_logit_normal_levels_are_shifted_logistic_values_of_normal_numbers() -> None:
    """Against the quantiles of a normal distribution from the standard library."""
    quantile = NormalDist().inv_cdf
    uniform = torch.tensor([0.02, 0.25, 0.5, 0.75, 0.98])
    for shift in (1.0, 0.5):
        scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
        found = NoiseProcess.from_scheduler(scheduler, "logit_normal").sample_timesteps(uniform)
        levels = [1 / (1 + math.exp(-quantile(1 - u))) for u in uniform.tolist()]
        expected = [1000 * shift * level / (1 + (shift - 1) * level) for level in levels]
        assert found.tolist() == pytest.approx(expected, rel=1e-4)
    ends = NoiseProcess("flow", levels="logit_normal").sample_timesteps(torch.tensor([0.0, 1 - 2**-24]))
    assert ends[0] == 1000 and 0 < ends[1] < 10


def test_logit_normal_levels_are_refused_where_timesteps_are_numbers_of_a_table() -> None:
    with pytest.raises(ScheduleError, match="noise levels 'logit_normal' are flow matching's"):
        NoiseProcess.from_scheduler(DDPMScheduler(**SD), "logit_normal")
