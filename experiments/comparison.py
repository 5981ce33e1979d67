"""Arms of a comparison, trained and scored alike: each row of a folder of configurations, with several training seeds.

    python -m experiments.comparison configs/results/mgie [--rows mgie lgie] [--seeds 0 1 2]

A row is a file that says how it differs from base.yaml beside it. Row R trains with seed S as `runs/FOLDER-R-S`, on the
samples and with the noise of that seed. How it is scored says protocol.yaml there (mmig/evaluation/protocol.py): each
of its parts into `runs/FOLDER-R-S/PART`, or the points of the part's grid into folders `NAME=VALUE` in that; the first
of its metrics is the measure. Where there is a `first/R.yaml`, a row starts from a run `FOLDER-R-S-first` that differs
by that.
Each row and seed is worked on by one process with one thread, so many at a time as --processes says; what is there is
not done again, and what was stopped goes on. At the end comes a table; `python -m experiments.claims` says what the
runs say about the claims.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from rich.table import Table

from experiments.demo import ROOT, console
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.evaluation.protocol import Part, Protocol, read_protocol, with_parts
from mmig.evaluation.rows import by_key, read_rows
from mmig.run.jobs import point_name, points

BASE, FIRST, PROTOCOL = "base", "first", "protocol"
LIMIT = 600


@dataclass(frozen=True)
class Arm:
    """A row with a training seed.

    Attributes:
        row: its configuration.
        seed: of weights, draws and order.
        runs: folder of its run.
    """

    row: Path
    seed: int
    runs: Path

    @property
    def name(self) -> str:
        """Of its run."""
        return f"{self.row.parent.name}-{self.row.stem}-{self.seed}"

    def trainings(self, more: Sequence[str]) -> list[list[str]]:
        """Commands that train it, or go on; `more` are arguments of the last alone."""
        files = [self.row.with_name(f"{BASE}.yaml"), *([] if self.row.stem == BASE else [self.row])]
        first = self.row.parent / FIRST / self.row.name
        if not first.is_file():
            return [self._training(self.name, files, more)]
        start = f"{self.name}-{FIRST}"
        begun = ["--init_from", str(self.runs / start)]
        return [self._training(start, [*files, first], []), self._training(self.name, files, [*begun, *more])]

    def _training(self, name: str, files: Sequence[Path], more: Sequence[str]) -> list[str]:
        seed, own = str(self.seed), ("--seed_everything", "--model.init_args.seed", "--data.init_args.seed")
        return [
            *("train.py", "fit", *(word for file in files for word in ("--config", str(file)))),
            *("--name", name, "--runs", str(self.runs), *(word for option in own for word in (option, seed)), *more),
        ]

    def evaluation(self, part: Part, limit: int) -> list[str]:
        """Command that scores it, or goes on; every arm sees the same samples with the same noise."""
        return [
            *("evaluate.py", "--protocol", str(self.row.with_name(f"{PROTOCOL}.yaml")), "--parts", part.name),
            *("--checkpoint", str(self.runs / self.name), "--limit", str(limit), "--keep-pictures", "24"),
            *("--out", str(self.runs / self.name / part.name)),
        ]

    def folders(self, part: Part) -> dict[str, Path]:
        """Where its evaluations of a part go, by what tables call them: the part, or it at each point of its grid."""
        folder = self.runs / self.name / part.name
        names = [point_name(point) for point in points(part.grid)]
        return {" ".join(filter(None, (part.name, name))): folder / name for name in names}

    def is_scored(self, part: Part) -> bool:
        """Whether its evaluations of a part have ended."""
        return all(is_finished(folder) for folder in self.folders(part).values())


def is_finished(evaluation: Path) -> bool:
    """Whether an evaluation has ended, by its folder."""
    return (evaluation / "metrics.json").is_file()


def work(arm: Arm, protocol: Protocol, options: argparse.Namespace) -> None:
    """Train and score an arm; what it says goes into a log beside its run.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    scores = [arm.evaluation(part, options.limit) for part in protocol.parts if not arm.is_scored(part)]
    log = arm.runs / f"{arm.name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("a", encoding="utf-8") as written:
        for command in [*arm.trainings(options.more), *scores] if scores else []:
            print("$", *command, file=written, flush=True)
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            words = [sys.executable, *command]
            subprocess.run(words, cwd=ROOT, env=environment, stdout=written, stderr=written, check=True)
    console.print(f"{arm.name}: done")


def reached(evaluations: Sequence[Path], measure: str) -> list[float]:
    """Mean of the measure in each evaluation that has ended."""
    finished = [read_rows(folder / "samples.jsonl") for folder in evaluations if is_finished(folder)]
    return [mean(by_key(rows, measure).values()) for rows in finished]


def table(arms: Sequence[Arm], protocol: Protocol) -> Table:
    """The measure, of shares in per cent: the mean over seeds, and each of them."""
    measure = protocol.parts[0].scoring.metrics[0]
    cells = {
        row: [
            reached(folders, measure)
            for part in protocol.parts
            for folders in zip(*(arm.folders(part).values() for arm in arms if arm.row == row), strict=True)
        ]
        for row in dict.fromkeys(arm.row for arm in arms)
    }
    is_share = all(0 <= value <= 1 for of_row in cells.values() for values in of_row for value in values)
    factor, unit = (100, ", per cent") if is_share else (1, "")
    found = Table("row", title=f"{measure}{unit}")
    for heading in (name for part in protocol.parts for name in arms[0].folders(part)):
        found.add_column(heading, justify="right")
    for row, of_row in cells.items():
        told = [", ".join(f"{factor * value:.1f}" for value in values) for values in of_row]
        means = [f"{factor * mean(values):.1f}" if values else "-" for values in of_row]
        found.add_row(row.stem, *(f"{one} ({each})" if each else one for one, each in zip(means, told, strict=True)))
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train and score all arms, then print the table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"of the rows' configurations, {BASE}.yaml and {PROTOCOL}.yaml")
    parser.add_argument("--rows", nargs="+", help="names of files; default: all but the base")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training (default: 0 1 2)")
    parser.add_argument("--parts", nargs="+", default=[], help="of the protocol (default: all)")
    parser.add_argument("--limit", type=positive, default=LIMIT, help=f"samples of each part (default: {LIMIT})")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--processes", type=positive, default=2, help="arms at a time (default: 2)")
    parser.add_argument("more", nargs="*", help="after --: arguments of train.py for all arms")
    options = parser.parse_args(arguments)
    rows = chosen(options.folder, options.rows, parser)
    with one_line_errors():
        protocol = with_parts(read_protocol(options.folder / f"{PROTOCOL}.yaml"), options.parts)
    arms = [Arm(row.resolve(), seed, ROOT / options.runs) for seed in options.seeds for row in rows]
    failed = []
    with ThreadPoolExecutor(options.processes) as pool:
        for arm, done in [(arm, pool.submit(work, arm, protocol, options)) for arm in arms]:
            if error := done.exception():
                failed.append(arm.name)
                console.print(f"{arm.name}: {error}; see {arm.runs}/{arm.name}.log", style="red")
    console.print(table(arms, protocol))
    if failed:
        sys.exit(1)


def chosen(folder: Path, names: Sequence[str] | None, parser: argparse.ArgumentParser) -> list[Path]:
    """Files of the rows that are asked for."""
    there = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    for name in (BASE, PROTOCOL):
        if name not in there:
            parser.error(f"{folder}: expected a {name}.yaml and rows beside it")
    del there[PROTOCOL]
    for name in names or []:
        if name not in there:
            parser.error(f"--rows {name}: {folder} has {', '.join(there)}")
    return [there[name] for name in names or (each for each in there if each != BASE)]


if __name__ == "__main__":
    main()
