"""The point of a part's grid at which a row of a comparison is best, over its training seeds."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from mmig.evaluation.rows import by_key, read_rows


def best_point(runs: Sequence[Path], part: str, measure: str) -> str:
    """The point with the best mean of a measure over samples and runs, by its folder's name; of equal ones the first.

    Raises:
        ValueError: there is no point that all runs have, or one has no value of the measure.
    """
    there = [{path.parent.name for path in (run / part).glob("*=*/metrics.json")} for run in runs]
    shared = sorted(set.intersection(*there))
    if not shared:
        raise ValueError(f"{runs[0] / part}: expected evaluations at the points of a grid in every run, found none")
    found = {}
    for name in shared:
        values = [by_key(read_rows(run / part / name / "samples.jsonl"), measure) for run in runs]
        if not all(values):
            raise ValueError(f"{runs[0] / part / name}: expected values of {measure}, found none")
        found[name] = mean(mean(of_run.values()) for of_run in values)
    return max(found, key=lambda name: found[name])
