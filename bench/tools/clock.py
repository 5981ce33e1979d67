"""Wall-clock and processor time of two things that are done in turn."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

Instant = tuple[float, float]
"""Seconds of the wall clock and of this process's processor time."""


def now(device: torch.device | str = "cpu") -> Instant:
    """The time at which everything that was given to the device is done."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def since(start: Instant, end: Instant) -> Instant:
    """What passed in between."""
    return end[0] - start[0], end[1] - start[1]


@dataclass(frozen=True)
class Pairs:
    """Times of two things in pairs.

    Attributes:
        base: of what is compared with. own: of what is ours.
    """

    base: list[Instant]
    own: list[Instant]

    def ratio(self, clock: int = 0) -> float:
        """Median over the pairs of base / own, so that more is better; clock 0 wall, 1 processor."""
        return median(one[clock] / other[clock] for one, other in zip(self.base, self.own, strict=True))

    def seconds(self, clock: int = 0) -> tuple[float, float]:
        """Medians of both, base and own."""
        base, own = (median(times[clock] for times in side) for side in (self.base, self.own))
        return base, own


def in_turn(
    base: Callable[[], Any], own: Callable[[], Any], rounds: int, device: torch.device | str = "cpu", warm_up: int = 1
) -> Pairs:
    """Call both in turn, some rounds after a warm-up; who comes first alternates, too."""
    times: tuple[list[Instant], list[Instant]] = ([], [])
    for number in range(warm_up + rounds):
        for side in ((0, 1), (1, 0))[number % 2]:
            start = now(device)
            (base, own)[side]()
            if number >= warm_up:
                times[side].append(since(start, now(device)))
    return Pairs(*times)
