"""Bootstrap intervals of means and of paired differences. Pure numpy; the unit that is resampled is the sample key."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 4_000_000
"""Random indices drawn at once, to bound memory."""


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile bootstrap interval over n samples.

    One sample says nothing about the spread: where n is 1, `low` and `high` are NaN; where n is 0, `value` is too.
    """

    value: float
    low: float
    high: float
    n: int

    @property
    def is_known(self) -> bool:
        """Whether there are bounds."""
        return self.n > 1

    @property
    def excludes_zero(self) -> bool:
        """Whether zero lies outside of the interval; False where there is none."""
        return self.low > 0 or self.high < 0

    @property
    def digits(self) -> int:
        """How many decimals show it: three, more where value and bounds are small, fewer where they are large."""
        largest = max((abs(number) for number in (self.value, self.low, self.high) if math.isfinite(number)), default=0)
        return 2 if largest >= 10 else 3 if largest >= 0.1 or largest == 0 else 4 if largest >= 0.01 else 5

    def at_least(self, floor: float) -> "Interval":
        """The same with no number below `floor`; NaN stays NaN."""
        numbers = (self.value, self.low, self.high)
        return Interval(*(number if math.isnan(number) else max(number, floor) for number in numbers), n=self.n)

    def bounds(self, spec: str, scale: float = 1.0) -> str:
        """The bounds times `scale` for a table, "[0.480, 0.540]"; "[-]" where there are none.

        Args:
            spec: format of each number, such as ".3f".
            scale: 100 for percentages.
        """
        return f"[{scale * self.low:{spec}}, {scale * self.high:{spec}}]" if self.is_known else "[-]"

    def told(self, spec: str, scale: float = 1.0) -> str:
        """Value and bounds, "0.510 [0.480, 0.540]", both as `bounds` has them."""
        return f"{scale * self.value:{spec}} {self.bounds(spec, scale)}"


def mean_interval(
    values: NDArray[np.floating], num_resamples: int = NUM_RESAMPLES, level: float = LEVEL, seed: int = 0
) -> Interval:
    """Mean of values [n] (finite) and its interval from resampling them with replacement, which takes two at least.

    Raises:
        ValueError: for values that are not finite.
    """
    return function_interval(np.asarray(values)[:, None], lambda means: means[..., 0], num_resamples, level, seed)


def function_interval(
    values: NDArray[np.floating],
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """A function of the means of m values a sample, such as their harmonic mean, and its interval as `mean_interval`'s.

    Args:
        values: finite, [n,m]; the m values of one sample stay together.
        function: means [...,m] -> [...].
        num_resamples, level, seed: of the bootstrap.

    Raises:
        ValueError: for values that are not finite.
    """
    values = np.asarray(values, dtype=np.float64)
    n = len(values)
    if not np.isfinite(values).all():
        num_bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"bootstrap: expected finite values, found {num_bad} of {n} that are not")
    if n < 2:
        return Interval(float(function(values)[0]) if n else float("nan"), float("nan"), float("nan"), n)
    generator = np.random.default_rng(seed)
    per_chunk = max(1, _CHUNK // values.size)
    means = [
        values[generator.integers(0, n, (min(per_chunk, num_resamples - start), n))].mean(1)
        for start in range(0, num_resamples, per_chunk)
    ]
    low, high = np.quantile(function(np.concatenate(means)), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(function(values.mean(axis=0))), float(low), float(high), n)


def paired_difference(
    first: Mapping[str, float],
    second: Mapping[str, float],
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Interval:
    """Mean of first[key] - second[key] over the keys that both have, with its interval.

    Resampling the differences keeps each pair together, so what both sides share (a hard sample) cancels.

    Raises:
        ValueError: if no key is in both.
    """
    keys = sorted(first.keys() & second.keys())
    if not keys:
        raise ValueError("paired difference: the two sides share no sample key; expected two runs over the same data")
    differences = np.array([first[key] - second[key] for key in keys], dtype=np.float64)
    return mean_interval(differences, num_resamples, level, seed)
