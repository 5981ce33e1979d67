"""The noise process: what is added to clean latents, what the denoiser predicts, and how to get back.

The only place that knows a schedule. Losses, samplers and stages speak of timesteps, targets and x0 through it.
"""

from typing import Any, Literal

import torch
from torch import Tensor

Prediction = Literal["epsilon", "v_prediction", "flow"]
Weighting = Literal["uniform", "min_snr"]
Levels = Literal["uniform", "logit_normal"]
"""How flow matching draws noise levels before they are shifted: evenly, or as the logistic function of a standard
normal number (Esser et al. 2024, section 3.1), which leaves the ends out."""


GAMMA = 5.0
"""Largest weight of an x0 error under "min_snr"; Hang et al.'s."""


class ScheduleError(ValueError):
    """A scheduler whose settings this noise process cannot follow."""


class NoiseProcess:
    """x_t = a(t) x0 + s(t) eps, for the variance-preserving schedules and for flow matching.

    Timesteps are what the denoiser is told: int64 in [0, T) for variance-preserving schedules, float32 in (0, T] for
    flow matching, where t / T is the noise level s and a = 1 - s.

    Args:
        prediction: "epsilon" (Ho et al. 2020), "v_prediction" (v = a eps - s x0, Salimans & Ho 2022) or "flow"
            (eps - x0, Lipman et al. 2022).
        alphas_cumprod: a(t)^2 of every timestep, [T]; only for the first two.
        num_timesteps: T.
        shift: timestep shift of flow matching (Esser et al. 2024); 1 leaves the noise levels as they are drawn.
        levels: how flow matching draws them.
    """

    def __init__(
        self,
        prediction: Prediction,
        alphas_cumprod: Tensor | None = None,
        num_timesteps: int = 1000,
        shift: float = 1.0,
        levels: Levels = "uniform",
    ) -> None:
        if levels != "uniform" and prediction != "flow":
            raise ScheduleError(
                f"noise levels {levels!r} are flow matching's, and the scheduler's prediction is {prediction!r}; "
                "expected 'uniform'"
            )
        if (prediction == "flow") != (alphas_cumprod is None):
            raise ScheduleError(
                f"prediction {prediction!r}: alphas_cumprod is needed by, and only by, the others than flow"
            )
        self.prediction = prediction
        self.num_timesteps = num_timesteps if alphas_cumprod is None else len(alphas_cumprod)
        self.shift = shift
        self.levels = levels
        self._alphas_cumprod = None if alphas_cumprod is None else alphas_cumprod.double()

    @classmethod
    def from_scheduler(cls, scheduler: Any, levels: Levels = "uniform") -> "NoiseProcess":
        """The process that a diffusers scheduler samples from.

        Of one whose shift depends on the number of tokens (FLUX), training draws unshifted levels, as diffusers' recipe
        for FLUX does.

        Raises:
            ScheduleError: the scheduler's `prediction_type` is none of epsilon, v_prediction and flow matching.
        """
        config = scheduler.config
        alphas = getattr(scheduler, "alphas_cumprod", None)
        name = type(scheduler).__name__
        if alphas is None and not name.startswith("FlowMatch"):
            raise ScheduleError(f"scheduler {name}: expected alphas_cumprod or a FlowMatch scheduler, found neither")
        if alphas is None:
            shift = 1.0 if config.get("use_dynamic_shifting", False) else config.get("shift", 1.0)
            return cls("flow", num_timesteps=config.num_train_timesteps, shift=shift, levels=levels)
        if config.prediction_type not in ("epsilon", "v_prediction"):
            raise ScheduleError(
                f"scheduler {name}: prediction_type {config.prediction_type!r}; expected epsilon or v_prediction"
            )
        return cls(config.prediction_type, alphas_cumprod=alphas, levels=levels)

    def sample_timesteps(self, uniform: Tensor, exponent: float = 1.0) -> Tensor:
        """Timesteps for training from uniform draws in [0, 1), [B]: t uniform, or the shifted noise level times T.

        Flow matching's fall with the draw, whatever distribution they are brought to.

        The draw is raised to `exponent`: below 1, noisy timesteps come more often (t's density goes as t^(1/e - 1)).
        """
        if self._alphas_cumprod is not None:
            return (uniform**exponent * self.num_timesteps).long().clamp_(max=self.num_timesteps - 1)
        level = (1 - uniform.float()) ** exponent  # in (0, 1]
        if self.levels == "logit_normal":
            level = torch.special.ndtri(level.double()).sigmoid().float()
        return self.num_timesteps * self.shift * level / (1 + (self.shift - 1) * level)

    def noisier(self, timesteps: Tensor, steps: int) -> Tensor:
        """Timesteps that are `steps` of the 1000 (or of T) noisier, at most the noisiest, [B]."""
        last = self.num_timesteps - (self._alphas_cumprod is not None)
        return (timesteps + steps).clamp(max=last)

    def has_noisier(self, timesteps: Tensor, steps: int) -> Tensor:
        """Whether timesteps `steps` noisier still exist, where `noisier` cuts nothing short; bool [B]."""
        gained = self.noisier(timesteps, steps) - timesteps
        return gained >= steps - 1e-3  # flow matching's timesteps are float32 numbers up to T

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """(a, s) of each timestep, float32 [B] each."""
        if self._alphas_cumprod is None:
            level = timesteps.float() / self.num_timesteps
            return 1 - level, level
        kept = self._alphas_cumprod.to(timesteps.device)[timesteps]
        return kept.sqrt().float(), (1 - kept).sqrt().float()

    def add_noise(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents x_t, [B,...], from clean latents and noise of one shape and timesteps [B]."""
        a, s = self._scales_like(timesteps, clean)
        return a * clean + s * noise

    def target(self, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser must predict, [B,...]."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "flow":
            return noise - clean
        a, s = self._scales_like(timesteps, clean)
        return a * noise - s * clean

    def x0_from(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Clean latents that a prediction stands for, [B,...]."""
        a, s = self._scales_like(timesteps, noisy)
        if self.prediction == "epsilon":
            return (noisy - s * prediction) / a
        return noisy - s * prediction if self.prediction == "flow" else a * noisy - s * prediction

    def noise_from(self, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
        """Noise that a prediction stands for, [B,...]."""
        if self.prediction == "epsilon":
            return prediction
        a, s = self._scales_like(timesteps, noisy)
        return noisy + a * prediction if self.prediction == "flow" else s * noisy + a * prediction

    def weight(self, timesteps: Tensor, weighting: Weighting = "uniform") -> Tensor:
        """Weight of the squared error at each timestep, float32 [B].

        "min_snr" weighs the error of x0 by min(SNR, `GAMMA`) (Hang et al. 2023), whatever is predicted.
        """
        if weighting == "uniform":
            return torch.ones_like(timesteps, dtype=torch.float32)
        a, s = self.scales(timesteps)
        snr = (a / s) ** 2
        x0_error = {"epsilon": 1 / snr, "v_prediction": 1 / (1 + snr), "flow": s**2}[self.prediction]
        return snr.clamp(max=GAMMA) * x0_error

    def _scales_like(self, timesteps: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        a, s = self.scales(timesteps)
        shape = (-1, *[1] * (value.ndim - 1))
        return a.view(shape), s.view(shape)
