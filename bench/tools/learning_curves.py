"""Curves of trainings: how many edits are right after how many minutes of processor time, their table and picture."""

import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import mean
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
        minutes: of this process's processor time in training, without looking.
        samples: seen by then.
        joint, success, preservation: shares of the validation samples.
    """

    minutes: float
    samples: int
    joint: float
    success: float
    preservation: float


class LearningCurve(L.Callback):
    """Ends a training after so many minutes of processor time and looks at its edits evenly on the way.

    Args:
        minutes: of the training, looking not counted. looks: how often. samples: that are edited each time.
    """

    def __init__(self, minutes: float, looks: int, samples: int) -> None:
        self.due = [minutes * number / looks for number in range(1, looks + 1)]
        self.editing = Evaluate(NEVER, samples, scoring=SCORING)
        self.looks: list[Look] = []
        self._spent = self._since = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self._since = time.process_time()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Look when it is due; the clock stands still meanwhile."""
        self._spent += (time.process_time() - self._since) / 60
        if self._spent >= self.due[len(self.looks)]:
            self.editing.evaluate(trainer, pl_module)
            values = [float(trainer.callback_metrics[f"eval/{name}"]) for name in METRICS]
            samples = pl_module.step * trainer.datamodule.global_batch_size
            self.looks.append(Look(self._spent, samples, *values))
            trainer.should_stop = len(self.looks) == len(self.due)
        self._since = time.process_time()


def minutes_to(looks: Sequence[Look], target: float) -> float | None:
    """When the joint share first reached the target, between two looks by a straight line; None if it did not."""
    start = Look(0.0, 0, 0.0, 0.0, 0.0)
    for before, after in pairwise([start, *looks]):
        if after.joint >= target:
            part = (target - before.joint) / (after.joint - before.joint)
            return before.minutes + part * (after.minutes - before.minutes)
    return None


Curves = Mapping[str, Sequence[Sequence[Look]]]
"""Row -> the looks of each training seed."""


def best_first(curves: Curves) -> list[tuple[str, Sequence[Sequence[Look]]]]:
    """Rows by what they reached at the end, means of their seeds."""
    return sorted(curves.items(), key=lambda item: -mean(looks[-1].joint for looks in item[1]))


def table(curves: Curves, target: float) -> str:
    """Markdown: a line a row, sorted by what it reached at the end; of several seeds each one's minutes, and means."""
    lines = [
        f"| row | minutes to {100 * target:.0f} % joint | samples | joint at the end | success | preservation |",
        "|---|---|---|---|---|---|",
    ]
    for row, seeds in best_first(curves):
        reached = [minutes_to(looks, target) for looks in seeds]
        minutes = ", ".join("not reached" if each is None else f"{each:.1f}" for each in reached)
        ends = [looks[-1] for looks in seeds]
        shares = " | ".join(f"{100 * mean(getattr(end, name) for end in ends):.0f}" for name in METRICS)
        lines.append(f"| `{row}` | {minutes} | {mean(end.samples for end in ends):,.0f} | {shares} |")
    return "\n".join(lines)


def draw_curves(curves: Curves, target: float, path: Path) -> None:
    """Joint share against minutes, a line a row, the mean of its seeds."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120, layout="constrained")
    for number, (row, seeds) in enumerate(best_first(curves)):
        minutes = np.mean([[0, *(look.minutes for look in looks)] for looks in seeds], axis=0)
        joint = np.mean([[0, *(100 * look.joint for look in looks)] for looks in seeds], axis=0)
        axes.plot(minutes, joint, marker="o", markersize=3, color=f"C{number % 10}", label=row)
    axes.axhline(100 * target, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xlabel="minutes of one core", ylabel="edits right and the rest kept, %", xlim=0, ylim=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path)
    plt.close(figure)
