"""Fidelity to subjects against alignment with texts over the fuse ratio: intervals, choice, table and picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mmig.evaluation.bootstrap import Interval, function_interval, mean_interval
from mmig.evaluation.finished import Finished, check_comparable, read_finished
from mmig.evaluation.rows import by_key

SETTING = "fuse_ratio"
BALANCED = ("subject_fidelity", "text_alignment")
"""What the harmonic mean is of."""
BESIDE = ("subject_and_text", "clip_image_similarity_reference", "dino_target", "clip_text_similarity")
"""What else the table has, as far as it was scored."""
Scores = Mapping[str, Mapping[str, float]]
"""Of one run at one point: metric -> sample key -> value, sampling seeds averaged."""
Curve = Mapping[float, Sequence[Scores]]
"""Fuse ratio -> the scores of each training seed's run."""


class Subset(NamedTuple):
    """Some samples of a part of the protocol; `subjects` says which, "one" in the text, "two" or "all"."""

    part: str
    subjects: str
    keys: Sequence[str]


def read_curve(runs: Sequence[Path], part: str) -> tuple[Curve, Finished]:
    """A part of every run at all points that all have, and one of the evaluations.

    Raises:
        ValueError: there are none, or they are of different samples.
    """
    names = [{folder.name for folder in (run / part).glob(f"{SETTING}=*")} for run in runs]
    shared = sorted(set.intersection(*names), key=lambda name: float(name.partition("=")[2]))
    if not shared:
        raise ValueError(f"{runs[0] / part}: expected evaluations at {SETTING}=VALUE in every run, found none")
    evaluations = {name: read_finished([run / part / name for run in runs]) for name in shared}
    check_comparable([each for of_point in evaluations.values() for each in of_point])
    curve = {float(name.partition("=")[2]): [scores_of(each) for each in evaluations[name]] for name in shared}
    return curve, evaluations[shared[0]][0]


def scores_of(evaluation: Finished) -> Scores:
    """Of one evaluation the metrics that a table has."""
    scores = {metric: by_key(evaluation.rows, metric) for metric in (*BALANCED, *BESIDE)}
    return {metric: of_key for metric, of_key in scores.items() if of_key}


def harmonic_mean(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of values [...,2] that are at least 0, [...]; 0 where both are."""
    total = means.sum(axis=-1)
    return 2 * means.prod(axis=-1) / np.where(total > 0, total, 1.0)


def values_of(runs: Sequence[Scores], metric: str, keys: Sequence[str]) -> NDArray[np.float64]:
    """A metric of each sample, runs averaged, [n].

    Raises:
        ValueError: a sample has no value in some run.
    """
    if missing := next((key for run in runs for key in keys if key not in run.get(metric, {})), None):
        raise ValueError(f"{metric}: sample {missing!r} has no value in one of the runs")
    return np.array([[run[metric][key] for key in keys] for run in runs]).mean(axis=0)


def balance(runs: Sequence[Scores], keys: Sequence[str]) -> Interval:
    """Harmonic mean of mean fidelity and mean alignment."""
    return function_interval(_both(runs, keys), harmonic_mean)


def gain(first: Sequence[Scores], second: Sequence[Scores], keys: Sequence[str]) -> Interval:
    """By how much the harmonic mean is larger, on the same samples."""
    values = np.concatenate([_both(first, keys), _both(second, keys)], axis=1)
    return function_interval(values, lambda means: harmonic_mean(means[..., :2]) - harmonic_mean(means[..., 2:]))


def best_point(curve: Curve, keys: Sequence[str]) -> float:
    """The fuse ratio of the largest harmonic mean; of equal ones the smallest."""
    return max(sorted(curve), key=lambda point: balance(curve[point], keys).value)


def _both(runs: Sequence[Scores], keys: Sequence[str]) -> NDArray[np.float64]:
    return np.stack([values_of(runs, metric, keys) for metric in BALANCED], axis=1)


def table(curves: Mapping[str, Curve], subsets: Sequence[Subset]) -> str:
    """Markdown: a line a subset and fuse ratio, means over training seeds with 95 % intervals over samples."""
    beside = [
        name for name in BESIDE if all(name in run for c in curves.values() for runs in c.values() for run in runs)
    ]
    lines = [f"| part | subjects | alpha | n | harmonic mean | {' | '.join((*BALANCED, *beside))} |"]
    lines.append(f"|{'---|' * (5 + len(BALANCED) + len(beside))}")
    for part, subjects, keys in subsets:
        for point, runs in sorted(curves[part].items()):
            found = [balance(runs, keys)]
            found += [mean_interval(values_of(runs, metric, keys)) for metric in (*BALANCED, *beside)]
            cells = " | ".join(each.told(".3f") for each in found)
            lines.append(f"| {part} | {subjects} | {point:g} | {len(keys)} | {cells} |")
    return "\n".join(lines)


def tests(curves: Mapping[str, Curve], subsets: Sequence[Subset], chosen: float) -> str:
    """Markdown: the harmonic mean at the chosen fuse ratio minus that at 0 and at 1, paired, and of each run."""
    lines = ["| part | subjects | n | against | difference | by training seed |", "|---|---|---|---|---|---|"]
    for part, subjects, keys in subsets:
        curve = curves[part]
        for other in sorted({0.0, 1.0} & curve.keys()) if chosen in curve else []:
            found = gain(curve[chosen], curve[other], keys)
            pairs = zip(curve[chosen], curve[other], strict=True)
            by_run = ", ".join(f"{gain([one], [another], keys).value:+.3f}" for one, another in pairs)
            told = found.told("+.3f")
            lines.append(f"| {part} | {subjects} | {len(keys)} | {other:g} | {told} | {by_run} |")
    return "\n".join(lines)


def draw_subject_curves(curves: Mapping[str, Curve], subsets: Sequence[Subset], chosen: float, path: Path) -> None:
    """Fidelity, alignment and their harmonic mean over the fuse ratio, with intervals: parts below each other."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    parts, kinds = (list(dict.fromkeys(each[place] for each in subsets)) for place in (0, 1))
    size = (3.2 * len(kinds), 2.8 * len(parts))
    figure, grid = plt.subplots(
        len(parts), len(kinds), figsize=size, dpi=120, layout="constrained", squeeze=False, sharex=True, sharey=True
    )
    for part, subjects, keys in subsets:
        axes = grid[parts.index(part)][kinds.index(subjects)]
        points = sorted(curves[part])
        for number, name in enumerate((*BALANCED, "harmonic mean")):
            of_points = [curves[part][point] for point in points]
            found = [
                balance(runs, keys) if name not in BALANCED else mean_interval(values_of(runs, name, keys))
                for runs in of_points
            ]
            axes.plot(points, [each.value for each in found], marker="o", markersize=3, color=f"C{number}", label=name)
            bounds = [each.low for each in found], [each.high for each in found]
            axes.fill_between(points, *bounds, color=f"C{number}", alpha=0.2, linewidth=0)
        axes.axvline(chosen, color="grey", linewidth=0.8, linestyle=":")
        axes.set(title=f"{part}, {subjects}, n = {len(keys)}", ylim=(0, 1))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("fuse ratio alpha")
    grid[0][0].legend(frameon=False, fontsize="small")
    figure.savefig(path)
    plt.close(figure)
