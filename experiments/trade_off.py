"""Two metrics against each other over a grid of sampling settings, as a figure and a table.

    python -m experiments.trade_off runs/FOLDER-ROW-0 runs/FOLDER-ROW-1 runs/FOLDER-ROW-2 --out DIR

Reads what `python -m experiments.comparison` left of some training seeds of one row in a part with a grid. The first
setting of the grid runs along each curve, every combination of the others is a curve of its own: alpha along beta, as
figure 8 of InstructAny2Pix (Li et al. 2023) shows them; the aesthetic score alone, as figure 7. Means are over training
seeds, with 95 % intervals over samples. Writes trade_off.md and trade_off.png.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.chosen import shared_points
from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.files import replacing, write_text
from mmig.evaluation.bootstrap import Interval, mean_interval
from mmig.evaluation.finished import Finished, check_comparable, read_finished
from mmig.evaluation.rows import by_key

AXES = ("preservation", "success")
"""What is drawn across and up where nothing else is asked for."""


@dataclass(frozen=True)
class Place:
    """What was found at a point of the grid.

    Attributes:
        point: its settings, in the order of the grid.
        values: across and up.
        num_samples: how many both are means of.
    """

    point: Mapping[str, str]
    values: tuple[Interval, Interval]
    num_samples: int


def read_places(runs: Sequence[Path], part: str, metrics: tuple[str, str]) -> list[Place]:
    """The points of a part's grid that all runs have.

    Raises:
        ValueError: there is none, or evaluations are of different samples or lack a metric.
    """
    found = {name: read_finished([run / part / name for run in runs]) for name in shared_points(runs, part)}
    check_comparable([each for of_point in found.values() for each in of_point])
    places = []
    for name, evaluations in found.items():
        across, up = (_mean(evaluations, metric) for metric in metrics)
        point = dict(setting.split("=", 1) for setting in name.split(","))
        places.append(Place(point, (across, up), across.n))
    return sorted(places, key=lambda place: [_number(value) for value in reversed(place.point.values())])


def _mean(evaluations: Sequence[Finished], metric: str) -> Interval:
    """Over samples, training seeds averaged."""
    of_runs = [by_key(evaluation.rows, metric) for evaluation in evaluations]
    keys = sorted(set.intersection(*(set(values) for values in of_runs)))
    if not keys:
        raise ValueError(f"{evaluations[0].directory}: expected values of {metric}, found none")
    return mean_interval(np.array([[values[key] for key in keys] for values in of_runs]).mean(axis=0))


def _number(value: str) -> tuple[float, str]:
    """For sorting: numbers by their size, words behind them."""
    try:
        return float(value), ""
    except ValueError:
        return float("inf"), value


def curves(places: Sequence[Place]) -> dict[str, list[Place]]:
    """The places along the first setting, by what the other settings are."""
    found: dict[str, list[Place]] = {}
    for place in places:
        others = list(place.point.items())[1:]
        found.setdefault(", ".join(f"{name} = {value}" for name, value in others), []).append(place)
    return found


def table(places: Sequence[Place], metrics: tuple[str, str]) -> str:
    """Markdown: a line a point."""
    lines = [f"| {' | '.join((*places[0].point, *metrics, 'n'))} |", f"|{'---|' * (len(places[0].point) + 3)}"]
    for place in places:
        told = [each.told(".3f") for each in place.values]
        lines.append(f"| {' | '.join((*place.point.values(), *told, str(place.num_samples)))} |")
    return "\n".join(lines)


def draw_trade_off(places: Sequence[Place], metrics: tuple[str, str], path: Path) -> None:
    """A curve each of `curves`, with intervals both ways; its points grow along the first setting."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5.6, 4.4), dpi=120, layout="constrained")
    along = next(iter(places[0].point))
    for number, (label, found) in enumerate(curves(places).items()):
        across, up = ([place.values[axis] for place in found] for axis in (0, 1))
        spread = [
            np.array([[e.value - e.low for e in side], [e.high - e.value for e in side]]) for side in (across, up)
        ]
        where = [each.value for each in across], [each.value for each in up]
        axes.errorbar(
            *where,
            xerr=spread[0],
            yerr=spread[1],
            linewidth=1,
            elinewidth=0.4,
            color=f"C{number}",
            label=label or None,
        )
        axes.scatter(*where, s=[8 * (1 + step) for step in range(len(found))], color=f"C{number}", zorder=3)
    values = ", ".join(place.point[along] for place in next(iter(curves(places).values())))
    axes.set(xlabel=metrics[0].replace("_", " "), ylabel=metrics[1].replace("_", " "))
    axes.set_title(f"along each curve, as points grow: {along} = {values}", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    if len(curves(places)) > 1:
        axes.legend(frameon=False, fontsize="small", loc="lower right")
    figure.savefig(path, format="png")
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Read, tell, draw."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="of one row, with different training seeds")
    parser.add_argument("--part", default="val", help="with the grid (default: val)")
    parser.add_argument(
        "--metrics", nargs=2, default=AXES, metavar=("ACROSS", "UP"), help=f"(default: {' '.join(AXES)})"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the picture")
    options = parser.parse_args(arguments)
    metrics = (options.metrics[0], options.metrics[1])
    with one_line_errors():
        places = read_places(options.runs, options.part, metrics)
    told = table(places, metrics)
    write_text(options.out / "trade_off.md", f"{told}\n")
    with replacing(options.out / "trade_off.png") as temporary:
        draw_trade_off(places, metrics, temporary)
    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main()
