"""Arms of a comparison, trained and scored alike: each row of a folder of configurations, with several training seeds.

    python -m experiments.comparison configs/results/mgie [--rows mgie lgie] [--seeds 0 1 2]

A row is a file that says how it differs from base.yaml beside it. Row R trains with seed S as `runs/FOLDER-R-S`, on the
samples and with the noise of that seed. How it is scored says protocol.yaml there (mmig/evaluation/protocol.py): each
of its parts into `runs/FOLDER-R-S/PART`, or the points of the part's grid into folders `NAME=VALUE` in that; the first
of its metrics is the measure. A row with a file `protocol/R.yaml` is scored by that instead.
Where there is a `first/R.yaml`, a row starts from a run `FOLDER-R-S-first` that differs by that; where phases.yaml
lists the phases of a row (experiments/phases.py), they are runs `FOLDER-R-S-PHASE`, trained in their order; a row that
starts from another row waits for it. A row that is an editor (`editor:`) trains its phases alone, and is scored as it
is; where neither {run} nor {seed} stands in it, once, under the first seed.
Where a protocol has a part `val` with a grid, it is scored first, with all seeds that are asked for; the parts whose
grids have none of its settings are then scored at that point of it where the measure is best on average.
Each row and seed is worked on by one process with one thread, so many at a time as --processes says; what is there is
not done again, and what was stopped goes on. At the end comes a table; `python -m experiments.claims` says what the
runs say about the claims.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from experiments.arms import BASE, PROTOCOL, Arm, is_finished
from experiments.chosen import best_point
from experiments.demo import ROOT, console
from experiments.phases import FILE as PHASES
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.evaluation.protocol import Part, Protocol, read_protocol, with_parts
from mmig.evaluation.rows import by_key, read_rows
from mmig.run.evaluate_parser import PRECISIONS
from mmig.run.jobs import point_name, points

CHOICE = "val"
"""The part whose grid settings are chosen from."""
LIMIT = 600
Point = Mapping[str, Any]


def work(arm: Arm, protocol: Protocol, point: Point, options: argparse.Namespace) -> None:
    """Train an arm and score it at a point; what it says goes into a log beside its run.

    Raises:
        subprocess.CalledProcessError: a command failed.
        ValueError: a part was scored at another point before.
    """
    for part in protocol.parts:
        check_point(arm, part, point)
    scores = [
        arm.evaluation(part, options.limit, point, options.precision)
        for part in protocol.parts
        if not arm.is_scored(part)
    ]
    trainings = [] if point else arm.trainings(options.more)  # a point is chosen after them
    if arm.is_editor:
        arm.write_editor()
    log = arm.runs / f"{arm.name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("a", encoding="utf-8") as written:
        for command in [*trainings, *scores] if scores else []:
            print("$", *command, file=written, flush=True)
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            words = [sys.executable, *command]
            subprocess.run(words, cwd=ROOT, env=environment, stdout=written, stderr=written, check=True)
    console.print(f"{arm.name}: done")


def choosing_part(protocol: Protocol) -> Part | None:
    """The part on which settings are chosen for others; None where there is none, or it has no grid."""
    return next((part for part in protocol.parts if part.name == CHOICE and part.grid), None)


def rounds(protocol: Protocol) -> tuple[Protocol, Protocol]:
    """What is scored as it is, and what is scored at the settings that are chosen on validation."""
    choice = choosing_part(protocol)
    later = [part for part in protocol.parts if choice and not part.grid.keys() & choice.grid.keys()]
    first = [part for part in protocol.parts if part not in later]
    return replace(protocol, parts=tuple(first)), replace(protocol, parts=tuple(later))


def chosen_point(arms: Sequence[Arm], protocol: Protocol) -> Point:
    """Where the measure is best on validation on average over the arms of one row; {} where nothing is chosen.

    Raises:
        ValueError: an arm has no evaluation there.
    """
    part = choosing_part(protocol)
    if part is None:
        return {}
    best = best_point([arm.runs / arm.name for arm in arms], part.name, part.scoring.metrics[0])
    return next(point for point in points(part.grid) if point_name(point) == best)


def check_point(arm: Arm, part: Part, point: Point) -> None:
    """Refuse what was scored at another point, so that the test split is not read at two."""
    for folder in arm.folders(part).values():
        if is_finished(folder):
            scored = json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("sampling", {})
            if other := {name: scored.get(name) for name, value in point.items() if scored.get(name) != value}:
                told = ", ".join(f"{name}={value}" for name, value in other.items())
                raise ValueError(f"{folder} was scored at {told}, validation chooses {point_name(point)}; move it away")


def reached(evaluations: Sequence[Path], measure: str) -> list[float]:
    """Mean of the measure in each evaluation that has ended."""
    finished = [read_rows(folder / "samples.jsonl") for folder in evaluations if is_finished(folder)]
    return [mean(by_key(rows, measure).values()) for rows in finished]


def table(arms: Sequence[Arm], protocols: Mapping[Path, Protocol]) -> Table:
    """The measure, of shares in per cent: the mean over seeds, and each of them; by row what it is scored by."""
    (measure, *_) = dict.fromkeys(part.scoring.metrics[0] for each in protocols.values() for part in each.parts)
    cells: dict[Path, dict[str, list[float]]] = {}
    for row, protocol in protocols.items():
        of_row = [arm for arm in arms if arm.row == row]
        names = [name for part in protocol.parts for name in of_row[0].folders(part)]
        folders = [zip(*(arm.folders(part).values() for arm in of_row), strict=True) for part in protocol.parts]
        found = [reached(each, measure) for of_part in folders for each in of_part]
        cells[row] = dict(zip(names, found, strict=True))
    every = [value for of_row in cells.values() for values in of_row.values() for value in values]
    factor, unit = (100, ", per cent") if all(0 <= value <= 1 for value in every) else (1, "")
    headings = list(dict.fromkeys(name for of_row in cells.values() for name in of_row))
    told = {row.stem: [_told(of_row.get(name, []), factor) for name in headings] for row, of_row in cells.items()}
    if len(headings) > len(told):  # points of a grid are many, and lines have more room than columns
        told = dict(zip(headings, map(list, zip(*told.values(), strict=True)), strict=True))
        headings = [row.stem for row in cells]
    shown = Table("", title=f"{measure}{unit}")
    for heading in headings:
        shown.add_column(heading, justify="right")
    for name, values in told.items():
        shown.add_row(name, *values)
    return shown


def _told(values: Sequence[float], factor: int) -> str:
    if not values:
        return "-"
    return f"{factor * mean(values):.1f} ({', '.join(f'{factor * value:.1f}' for value in values)})"


def main(arguments: list[str] | None = None) -> None:
    """Train and score all arms, then print the table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"of the rows' configurations, {BASE}.yaml and {PROTOCOL}.yaml")
    parser.add_argument("--rows", nargs="+", help="names of files; default: all but the base")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training (default: 0 1 2)")
    parser.add_argument("--parts", nargs="+", default=[], help="of the protocol (default: all)")
    parser.add_argument("--limit", type=positive, default=LIMIT, help=f"samples of each part (default: {LIMIT})")
    parser.add_argument("--precision", default="auto", choices=PRECISIONS, help="of evaluate.py (default: auto)")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--processes", type=positive, default=2, help="arms at a time (default: 2)")
    parser.add_argument("more", nargs="*", help="after --: arguments of train.py for all arms")
    options = parser.parse_args(arguments)
    rows = [row.resolve() for row in chosen(options.folder, options.rows, parser)]
    with one_line_errors():
        every = [Arm(row, seed, ROOT / options.runs) for seed in options.seeds for row in rows]
        arms = [arm for arm in every if arm.seed == options.seeds[0] or arm.has_seeds]
        protocols = read_protocols(arms, options.parts)
        for arm in arms:
            arm.trainings(options.more)  # phases that cannot be are told before anything trains
        waves([(arm, protocols[arm.row], {}) for arm in arms])
    from mmig.run.precision import AUTO, settled

    options.precision = settled(
        options.precision, AUTO
    )  # once for all arms: a processor that is timed may be busy later
    failed = carry_out(arms, protocols, options)
    asked = {row: with_asked(protocol, options.parts) for row, protocol in protocols.items()}
    console.print(table(arms, asked))
    if failed:
        sys.exit(1)


def read_protocols(arms: Sequence[Arm], parts: Sequence[str]) -> dict[Path, Protocol]:
    """How each row is scored.

    Raises:
        ValueError: a file that cannot be used, or a part that none of them has.
    """
    found = {arm.row: read_protocol(arm.protocol) for arm in arms}
    names = {part.name for protocol in found.values() for part in protocol.parts}
    for protocol in found.values():
        if set(parts) - names:
            with_parts(protocol, parts)  # says which
    return found


def with_asked(protocol: Protocol, parts: Sequence[str]) -> Protocol:
    """The protocol on the parts that are asked for and that it has; on all where none is."""
    return replace(protocol, parts=tuple(part for part in protocol.parts if part.name in parts or not parts))


def carry_out(arms: Sequence[Arm], protocols: Mapping[Path, Protocol], options: argparse.Namespace) -> set[str]:
    """Train and score, what is chosen from first; returns the names of the arms that failed."""
    nowhere: Point = {}
    jobs = [(arm, with_asked(rounds(protocols[arm.row])[0], options.parts), nowhere) for arm in arms]
    failed: set[str] = set()
    for wave in waves(jobs):
        lost = [job for job in wave if start_of(job[0]) in failed]
        for arm, *_ in lost:
            console.print(f"{arm.name}: {start_of(arm)}, which it starts from, failed", style="red")
        failed |= {arm.name for arm, *_ in lost} | together([job for job in wave if job not in lost], options)
    jobs = []
    for row, protocol in protocols.items():
        later = with_asked(rounds(protocol)[1], options.parts)
        of_row = [arm for arm in arms if arm.row == row]
        if not later.parts or failed & {arm.name for arm in of_row}:
            continue
        try:
            point = chosen_point(of_row, protocol)
        except ValueError as error:
            failed |= {arm.name for arm in of_row}
            console.print(f"{row.stem}: {error}", style="red")
            continue
        console.print(f"{row.stem}: {point_name(point)}, chosen on {CHOICE}")
        jobs += [(arm, later, point) for arm in of_row]
    return failed | together(jobs, options)


def start_of(arm: Arm) -> str:
    """Name of the arm that an arm starts from; "" where it starts from no other row."""
    return "" if arm.start is None else replace(arm, row=arm.start).name


def waves(jobs: Sequence[tuple[Arm, Protocol, Point]]) -> list[list[tuple[Arm, Protocol, Point]]]:
    """The jobs in groups, each arm in a later one than the arm that it starts from, where that is among them."""
    left, found = list(jobs), []
    while left:
        names = {arm.name for arm, *_ in left}
        ready = [job for job in left if start_of(job[0]) not in names]
        if not ready:
            raise ValueError(f"phases.yaml: {', '.join(sorted(names))} start from one another")
        found.append(ready)
        left = [job for job in left if job not in ready]
    return found


def together(jobs: Sequence[tuple[Arm, Protocol, Point]], options: argparse.Namespace) -> set[str]:
    """Work on arms, so many at a time as the options say; returns the names of those that failed."""
    failed = set()
    with ThreadPoolExecutor(options.processes) as pool:
        for arm, done in [(job[0], pool.submit(work, *job, options)) for job in jobs]:
            if error := done.exception():
                failed.add(arm.name)
                console.print(f"{arm.name}: {error}; see {arm.runs}/{arm.name}.log", style="red")
    return failed


def chosen(folder: Path, names: Sequence[str] | None, parser: argparse.ArgumentParser) -> list[Path]:
    """Files of the rows that are asked for."""
    there = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    for name in (BASE, PROTOCOL):
        if name not in there:
            parser.error(f"{folder}: expected a {name}.yaml and rows beside it")
    for name in (PROTOCOL, PHASES):
        there.pop(name, None)
    for name in names or []:
        if name not in there:
            parser.error(f"--rows {name}: {folder} has {', '.join(there)}")
    return [there[name] for name in names or (each for each in there if each != BASE)]


if __name__ == "__main__":
    main()
