"""The point of a grid at which a row of a comparison is best on validation; its evaluation elsewhere is what counts.

    python -m experiments.chosen runs/FOLDER-ROW-0 runs/FOLDER-ROW-1 runs/FOLDER-ROW-2 [--measure joint] [--parts test]

Reads what `python -m experiments.comparison` left of some training seeds of one row. The point with the best mean of
the measure over all of them on validation is chosen; in the folder of each further part a link `chosen` leads to the
evaluation at it, which docs/claims.yaml names.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from mmig.base.commands import OptionParser, one_line_errors
from mmig.evaluation.rows import by_key, read_rows

LINK = "chosen"


def point_means(runs: Sequence[Path], part: str, measure: str) -> dict[str, float]:
    """Mean of a measure over samples and runs at every point of a part's grid that all runs have, by its folder's name.

    Raises:
        ValueError: there is no such point, or one has no value of the measure.
    """
    there = [{path.parent.name for path in (run / part).glob("*/metrics.json")} - {LINK} for run in runs]
    shared = sorted(set.intersection(*there))
    if not shared:
        raise ValueError(f"{runs[0] / part}: expected evaluations at the points of a grid in every run, found none")
    found = {}
    for name in shared:
        values = [by_key(read_rows(run / part / name / "samples.jsonl"), measure) for run in runs]
        if not all(values):
            raise ValueError(f"{runs[0] / part / name}: expected values of {measure}, found none; give --measure")
        found[name] = mean(mean(of_run.values()) for of_run in values)
    return found


def best_point(runs: Sequence[Path], part: str, measure: str) -> str:
    """The point with the best mean, of equal ones the first; errors as `point_means`."""
    means = point_means(runs, part, measure)
    return max(sorted(means), key=lambda name: means[name])


def lay_link(folder: Path, name: str) -> None:
    """The link `chosen` to one of the evaluations in a folder; none where `name` is "" or there is no such one."""
    link = folder / LINK
    link.unlink(missing_ok=True)
    if name and (folder / name).is_dir():
        link.symlink_to(name)


def main(arguments: list[str] | None = None) -> None:
    """Choose, lay the links, say what was chosen."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="of one row, with different training seeds")
    parser.add_argument("--measure", default="joint", help="metric, the larger the better (default: joint)")
    parser.add_argument("--on", default="val", metavar="PART", help="where it is chosen (default: val)")
    parser.add_argument("--parts", nargs="+", default=["test"], help="where the links are laid (default: test)")
    options = parser.parse_args(arguments)
    with one_line_errors():
        means = point_means(options.runs, options.on, options.measure)
    best = max(sorted(means), key=lambda name: means[name])  # of equal ones the first
    for folder in (run / part for run in options.runs for part in options.parts):
        lay_link(folder, best)
    for name, value in means.items():
        sys.stdout.write(f"{options.measure} {value:.4f}  {name}{'  <- chosen' if name == best else ''}\n")


if __name__ == "__main__":
    main()
