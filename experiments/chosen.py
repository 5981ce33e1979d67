"""The points of a part's grid that a row's training seeds share, and the one at which the row is best."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from mmig.evaluation.rows import by_key, read_rows


def shared_points(runs: Sequence[Path], part: str) -> list[str]:
    """Points of a part's grid that all runs have, by their folders' names, in order.

    Raises:
        ValueError: there is none.
    """
    there = [{path.parent.name for path in (run / part).glob("*=*/metrics.json")} for run in runs]
    names = sorted(set.intersection(*there))
    if not names:
        raise ValueError(f"{runs[0] / part}: expected evaluations at the points of a grid in every run, found none")
    return names


def best_point(runs: Sequence[Path], part: str, measure: str) -> str:
    """The point with the best mean of a measure over samples and runs, by its folder's name; of equal ones the first.

    Raises:
        ValueError: there is no point that all runs have, or one has no value of the measure.
    """
    found = {}
    for name in shared_points(runs, part):
        values = [by_key(read_rows(run / part / name / "samples.jsonl"), measure) for run in runs]
        if not all(values):
            raise ValueError(f"{runs[0] / part / name}: expected values of {measure}, found none")
        found[name] = mean(mean(of_run.values()) for of_run in values)
    return max(found, key=lambda name: found[name])
