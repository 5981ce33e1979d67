r"""Systems beside each other with their training seeds averaged: means, and paired differences to the first system.

    python -m experiments.over_seeds at_once=runs/NAME-{seed}/several in_turns=runs/NAME-{seed}/several_in_turns \
      --metrics joint success preservation

In a folder {seed} stands for each of --seeds. Samples are paired by their keys, whatever was asked of each in its own
data, so that one edit may be compared as it is asked for in several ways; samples count that all evaluations have a
value for. --by-type tells the types of edits apart. Intervals are of 95 %, over samples, without a correction: what is
claimed is in docs/claims.yaml.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from experiments.side_by_side import named_folders
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.evaluation.bootstrap import mean_interval
from mmig.evaluation.finished import Finished, check_scored_alike, read_finished
from mmig.evaluation.rows import by_key


def read_systems(given: Sequence[str], seeds: Sequence[int]) -> dict[str, list[Finished]]:
    """The evaluations of each system, one a training seed.

    Args:
        given: NAME=FOLDER.
        seeds: what {seed} stands for in a folder; one without it is of one evaluation.

    Raises:
        ValueError: another form, a name or folder twice, or no evaluation there.
        NotComparableError: other models scored some of them.
    """
    folders = [
        (name, place)
        for name, folder in named_folders(given).items()
        for place in dict.fromkeys(folder.replace("{seed}", str(seed)) for seed in seeds)
    ]
    evaluations = read_finished([place for _, place in folders])
    check_scored_alike(evaluations)
    systems: dict[str, list[Finished]] = {}
    for (name, _), evaluation in zip(folders, evaluations, strict=True):
        systems.setdefault(name, []).append(evaluation)
    return systems


def by_type(systems: Mapping[str, Sequence[Finished]]) -> dict[str, dict[str, list[Finished]]]:
    """The systems with the edits of one type alone, by types in their order."""
    types = sorted({row.edit_type for runs in systems.values() for run in runs for row in run.rows})
    return {
        edit_type: {
            name: [replace(run, rows=[row for row in run.rows if row.edit_type == edit_type]) for run in runs]
            for name, runs in systems.items()
        }
        for edit_type in types
    }


def values_of(systems: Mapping[str, Sequence[Finished]], metric: str) -> dict[str, NDArray[np.float64]]:
    """A metric of the samples that all evaluations have one for, [n] of each system, training seeds averaged.

    Raises:
        ValueError: there is no such sample.
    """
    scores = {name: [by_key(each.rows, metric) for each in runs] for name, runs in systems.items()}
    keys = sorted(set.intersection(*(set(run) for runs in scores.values() for run in runs)))
    if not keys:
        raise ValueError(f"{metric}: expected samples that all evaluations have a value for, found none")
    return {name: np.array([[run[key] for key in keys] for run in runs]).mean(axis=0) for name, runs in scores.items()}


def table(systems: Mapping[str, Sequence[Finished]], metrics: Sequence[str], digits: int) -> str:
    """Markdown: a line a system and metric, with so many digits behind the point."""
    first, *others = systems
    lines = [f"| metric | system | n | mean | minus {first} |", "|---|---|---|---|---|"]
    for metric in metrics:
        values = values_of(systems, metric)
        differences = {name: mean_interval(values[name] - values[first]).told(f"+.{digits}f") for name in others}
        for name, found in values.items():
            mean = mean_interval(found).told(f".{digits}f")
            lines.append(f"| {metric} | {name} | {len(found)} | {mean} | {differences.get(name, '')} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Read, average, print."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", metavar="NAME=FOLDER", help="the first is what others are held against")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training (default: 0 1 2)")
    parser.add_argument("--metrics", nargs="+", default=["joint", "success", "preservation"])
    parser.add_argument("--digits", type=positive, default=3, help="behind the point (default: 3)")
    parser.add_argument("--by-type", action="store_true", help="a table for each type of edit")
    options = parser.parse_args(arguments)
    with one_line_errors():
        systems = read_systems(options.systems, options.seeds)
        parts = by_type(systems) if options.by_type else {"": systems}
        for edit_type, part in parts.items():
            heading = f"\n{edit_type}\n\n" if edit_type else ""
            sys.stdout.write(f"{heading}{table(part, options.metrics, options.digits)}\n")


if __name__ == "__main__":
    main()
