"""What `evaluate.py compare` does after its arguments are parsed."""

import logging
from argparse import Namespace
from pathlib import Path
from typing import Any

from rich.console import Console

from mmig.base.files import write_json
from mmig.base.versions import git_commit
from mmig.evaluation.bootstrap import LEVEL, NUM_RESAMPLES, Interval
from mmig.evaluation.differences import ALL, Differences, difference_table
from mmig.evaluation.finished import Finished, check_comparable, read_finished
from mmig.evaluation.page.build import write_page
from mmig.evaluation.page.causes import causes_by_type, count_causes
from mmig.evaluation.page.found import common_metrics, primary_metric
from mmig.evaluation.summary import interval_dict

logger = logging.getLogger(__name__)
FILE = "metrics_compare.json"


def run(arguments: Namespace) -> None:
    """Compare evaluations on disk: print paired differences, write report.html, metrics_compare.json and tables.

    Raises:
        ValueError: folders without an evaluation, or evaluations of different samples.
    """
    directory = Path(arguments.out)
    evaluations = read_finished([arguments.first, *arguments.others])
    check_comparable(evaluations)
    if directory.resolve() in [evaluation.directory.resolve() for evaluation in evaluations]:
        raise ValueError(f"--out {directory}: is one of the evaluations, whose page would be lost; give another folder")
    (directory / FILE).unlink(missing_ok=True)
    differences = write_page(directory, evaluations, arguments.command)
    write_json(directory / FILE, comparison(evaluations, differences, arguments.command))
    _show(evaluations, differences)
    written = f"written: {directory / 'report.html'}, {FILE}, table.md, table.tex"
    Console().print(written, style="dim", highlight=False)


def comparison(evaluations: list[Finished], differences: Differences, command: str) -> dict[str, Any]:
    """Everything that metrics_compare.json holds."""
    first = evaluations[0]
    return {
        "command": command,
        "reference": first.name,
        "data": first.report["data"],
        "split": first.report.get("split"),
        "num_samples": len(first.keys),
        "systems": [_of_system(evaluation) for evaluation in evaluations],
        "differences": {
            name: {metric: _of_metric(found) for metric, found in of_system.items()}
            for name, of_system in differences.items()
        },
        "bootstrap": {"level": LEVEL, "num_resamples": NUM_RESAMPLES, "seed": 0, "unit": "sample key"},
        "commit": git_commit(),
    }


def _of_system(evaluation: Finished) -> dict[str, Any]:
    of_report = ("role", "command", "commit", "seeds")
    return {
        "name": evaluation.name,
        "folder": str(evaluation.directory),
        **{name: evaluation.report[name] for name in of_report if name in evaluation.report},
        "causes": count_causes(evaluation.rows),
        "causes_per_edit_type": causes_by_type(evaluation.rows),
    }


def _of_metric(found: dict[str, Interval]) -> dict[str, Any]:
    of_types = {edit_type: _as_dict(interval) for edit_type, interval in found.items() if edit_type != ALL}
    return {**_as_dict(found[ALL]), "per_edit_type": of_types}


def _as_dict(interval: Interval) -> dict[str, Any]:
    return {**interval_dict(interval), "excludes_zero": interval.excludes_zero}


def _show(evaluations: list[Finished], differences: Differences) -> None:
    """Per system all metrics, then the first one by edit type."""
    console, first = Console(), evaluations[0]
    primary = primary_metric(common_metrics(evaluations))
    for name, of_system in differences.items():
        whole = {metric: found[ALL] for metric, found in of_system.items()}
        console.print(difference_table(whole, f"{name} minus {first.name}"))
        types = {kind: found for kind, found in of_system.get(primary or "", {}).items() if kind != ALL}
        if types:
            console.print(difference_table(types, f"{primary} by edit type, {name} minus {first.name}"))
