"""Wall-clock and processor time of things that are done in turn."""

import os
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


def seconds(times: list[Instant], clock: int = 0) -> float:
    """Median; clock 0 wall, 1 processor."""
    return median(instant[clock] for instant in times)


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
        return seconds(self.base, clock), seconds(self.own, clock)

    def line(self, name: str, goal: float, base: str, own: str, digits: int = 1) -> str:
        """What is printed of them; `base` and `own` are what the two things are called, `digits` of milliseconds."""
        (first, second), (first_cpu, second_cpu) = (
            [f"{1e3 * each:.{digits}f}" for each in self.seconds(clock)] for clock in (0, 1)
        )
        return (
            f"{name} ratio {self.ratio():.3f} (goal >= {goal}; {base} {first} ms, {own} {second} ms a step; "
            f"by processor time {self.ratio(1):.3f}, {first_cpu} and {second_cpu} ms; "
            f"{len(self.base)} pairs, load {os.getloadavg()[0]:.1f})"
        )


def alternate(
    works: dict[str, Callable[[], Any]], rounds: int, device: torch.device | str = "cpu", warm_up: int = 1
) -> dict[str, list[Instant]]:
    """Times of each of some works, done in turn, some rounds after a warm-up; every other round begins at the end."""
    times: dict[str, list[Instant]] = {name: [] for name in works}
    for number in range(warm_up + rounds):
        for name in list(works)[:: (1, -1)[number % 2]]:
            start = now(device)
            works[name]()
            if number >= warm_up:
                times[name].append(since(start, now(device)))
    return times


def in_turn(
    base: Callable[[], Any], own: Callable[[], Any], rounds: int, device: torch.device | str = "cpu", warm_up: int = 1
) -> Pairs:
    """Times of two works, by `alternate`."""
    return Pairs(**alternate({"base": base, "own": own}, rounds, device, warm_up))
