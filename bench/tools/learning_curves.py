"""Curves of trainings: how many edits are right after how many samples and minutes, their table and picture."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import lightning as L
import numpy as np

from bench.tools.set_up import NEVER
from mmig.callbacks.evaluate import Evaluate
from mmig.evaluation.settings import ScoringSettings

METRICS = ("joint", "success", "preservation")
SCORING = ScoringSettings(metrics=list(METRICS), judge="datamodules.tinyworld.judge.TinyWorldJudge")


class Look(NamedTuple):
    """What a training has reached.

    Attributes:
        samples: seen by then.
        joint, success, preservation: shares of the validation samples.
    """

    samples: int
    joint: float
    success: float
    preservation: float


class LearningCurve(L.Callback):
    """Ends a training after so many samples and looks at its edits evenly on the way.

    Args:
        samples: of the training. looks: how often. edited: validation samples that are edited each time.
    """

    def __init__(self, samples: int, looks: int, edited: int) -> None:
        self.due = [samples * number / looks for number in range(1, looks + 1)]
        self.editing = Evaluate(NEVER, edited, scoring=SCORING)
        self.looks: list[Look] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look when it is due."""
        seen = pl_module.step * trainer.datamodule.global_batch_size
        if seen >= self.due[len(self.looks)]:
            self.editing.evaluate(trainer, pl_module)
            values = [float(trainer.callback_metrics[f"eval/{name}"]) for name in METRICS]
            self.looks.append(Look(seen, *values))
            trainer.should_stop = len(self.looks) == len(self.due)


class Speed(L.Callback):
    """Ends a training after some steps and times each by this process's processor time.

    Args:
        steps: that count. warm_up: that come first and do not.
    """

    def __init__(self, steps: int, warm_up: int = 3) -> None:
        self.steps, self.warm_up = steps, warm_up
        self._ends: list[float] = []

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step, with the reading of its batch."""
        self._ends.append(time.process_time())
        trainer.should_stop = len(self._ends) > self.warm_up + self.steps

    @property
    def seconds(self) -> float:
        """Median of the steps."""
        return median(after - before for before, after in pairwise(self._ends[self.warm_up :]))


def samples_to(looks: Sequence[Look], target: float) -> float | None:
    """When the joint share first reached the target, between two looks by a straight line; None if it did not."""
    start = Look(0, 0.0, 0.0, 0.0)
    for before, after in pairwise([start, *looks]):
        if after.joint >= target:
            part = (target - before.joint) / (after.joint - before.joint)
            return before.samples + part * (after.samples - before.samples)
    return None


Curves = Mapping[str, Sequence[Sequence[Look]]]
"""Row -> the looks of each training seed."""


def best_first(curves: Curves) -> list[tuple[str, Sequence[Sequence[Look]]]]:
    """Rows by what they reached at the end, means of their seeds."""
    return sorted(curves.items(), key=lambda item: -mean(looks[-1].joint for looks in item[1]))


def minutes_to(looks: Sequence[Look], target: float, seconds: float) -> float | None:
    """Minutes to the target at so many seconds a sample; None if it was not reached."""
    samples = samples_to(looks, target)
    return None if samples is None else samples * seconds / 60


def table(curves: Curves, speeds: Mapping[str, float], target: float) -> str:
    """Markdown: a line a row, sorted by what it reached at the end; of several seeds each one's minutes, and means."""
    lines = [
        f"| row | minutes to {100 * target:.0f} % joint | samples to it | ms a sample | joint at the end | success | "
        "preservation |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, seeds in best_first(curves):
        minutes = ", ".join(_told(minutes_to(looks, target, speeds[row]), ".1f") for looks in seeds)
        samples = ", ".join(_told(samples_to(looks, target), ",.0f") for looks in seeds)
        ends = [looks[-1] for looks in seeds]
        shares = " | ".join(f"{100 * mean(getattr(end, name) for end in ends):.0f}" for name in METRICS)
        lines.append(f"| `{row}` | {minutes} | {samples} | {1000 * speeds[row]:.1f} | {shares} |")
    return "\n".join(lines)


def _told(number: float | None, spec: str) -> str:
    return "not reached" if number is None else f"{number:{spec}}"


def draw_curves(curves: Curves, speeds: Mapping[str, float], target: float, path: Path) -> None:
    """Joint share against minutes, a line a row, the mean of its seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120, layout="constrained")
    for number, (row, seeds) in enumerate(best_first(curves)):
        minutes = speeds[row] / 60 * np.mean([[0, *(look.samples for look in looks)] for looks in seeds], axis=0)
        joint = np.mean([[0, *(100 * look.joint for look in looks)] for looks in seeds], axis=0)
        axes.plot(minutes, joint, marker="o", markersize=3, color=f"C{number % 10}", label=row)
    axes.axhline(100 * target, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="minutes of one core", ylabel="edits right and the rest kept, %", xlim=0, ylim=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path)
    plt.close(figure)
