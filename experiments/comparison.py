"""Arms of a comparison, trained and scored alike: each row of a folder of configurations, with several training seeds.

    python -m experiments.comparison configs/results/mgie [--rows mgie lgie] [--seeds 0 1 2]

A row is a file that says how it differs from base.yaml beside it. Row R trains with seed S as `runs/FOLDER-R-S`, on the
samples and with the noise of that seed, and is scored on the test split of each data configuration `NAME.yaml` into
`runs/FOLDER-R-S/NAME`. Where there is a `first/R.yaml`, it starts from a run `FOLDER-R-S-first` that differs by that.
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
from mmig.base.commands import OptionParser, positive
from mmig.evaluation.rows import by_key, read_rows

BASE, FIRST = "base", "first"
MEASURE = "joint"
DATA = [f"configs/data/{name}.yaml" for name in ("literal", "visual", "inferable")]
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

    def evaluation(self, data: str, limit: int) -> list[str]:
        """Command that scores it, or goes on; every arm sees the same samples with the same noise."""
        return [
            *("evaluate.py", "--checkpoint", str(self.runs / self.name), "--data", data),
            *("--split", "test", "--limit", str(limit), "--metrics", "joint", "success", "preservation"),
            *("response_accuracy", "--keep-pictures", "24", "--out", str(self.folder(data))),
        ]

    def folder(self, data: str) -> Path:
        """Where its evaluation goes."""
        return self.runs / self.name / Path(data).stem

    def value(self, data: str) -> float | None:
        """Mean of the measure; None where it was not scored."""
        if not self.is_scored(data):
            return None
        return mean(by_key(read_rows(self.folder(data) / "samples.jsonl"), MEASURE).values())

    def is_scored(self, data: str) -> bool:
        """Whether its evaluation has ended."""
        return (self.folder(data) / "metrics.json").is_file()


def work(arm: Arm, options: argparse.Namespace) -> None:
    """Train and score an arm; what it says goes into a log beside its run.

    Raises:
        subprocess.CalledProcessError: a command failed.
    """
    scores = [arm.evaluation(data, options.limit) for data in options.data if not arm.is_scored(data)]
    log = arm.runs / f"{arm.name}.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("a", encoding="utf-8") as written:
        for command in [*arm.trainings(options.more), *scores] if scores else []:
            print("$", *command, file=written, flush=True)
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            words = [sys.executable, *command]
            subprocess.run(words, cwd=ROOT, env=environment, stdout=written, stderr=written, check=True)
    console.print(f"{arm.name}: done")


def table(arms: Sequence[Arm], data: Sequence[str]) -> Table:
    """The measure in per cent: the mean over seeds, and each of them."""
    found = Table(title=f"{MEASURE}, per cent")
    for title in ("row", *(Path(each).stem for each in data)):
        found.add_column(title, justify="left" if title == "row" else "right")
    for row in dict.fromkeys(arm.row for arm in arms):
        cells = []
        for each in data:
            values = [value for arm in arms if arm.row == row and (value := arm.value(each)) is not None]
            told = ", ".join(f"{100 * value:.1f}" for value in values)
            cells.append(f"{100 * mean(values):.1f} ({told})" if values else "-")
        found.add_row(row.stem, *cells)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Train and score all arms, then print the table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help=f"of the rows' configurations, with a {BASE}.yaml")
    parser.add_argument("--rows", nargs="+", help="names of files; default: all but the base")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of training (default: 0 1 2)")
    parser.add_argument("--data", nargs="+", default=DATA, help=f"configurations (default: {' '.join(DATA)})")
    parser.add_argument("--limit", type=positive, default=LIMIT, help=f"test samples of each (default: {LIMIT})")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of the runs (default: runs)")
    parser.add_argument("--processes", type=positive, default=2, help="arms at a time (default: 2)")
    parser.add_argument("more", nargs="*", help="after --: arguments of train.py for all arms")
    options = parser.parse_args(arguments)
    rows = chosen(options.folder, options.rows, parser)
    arms = [Arm(row.resolve(), seed, ROOT / options.runs) for seed in options.seeds for row in rows]
    failed = []
    with ThreadPoolExecutor(options.processes) as pool:
        for arm, done in [(arm, pool.submit(work, arm, options)) for arm in arms]:
            if error := done.exception():
                failed.append(arm.name)
                console.print(f"{arm.name}: {error}; see {arm.runs}/{arm.name}.log", style="red")
    console.print(table(arms, options.data))
    if failed:
        sys.exit(1)


def chosen(folder: Path, names: Sequence[str] | None, parser: argparse.ArgumentParser) -> list[Path]:
    """Files of the rows that are asked for."""
    there = {file.stem: file for file in sorted(folder.glob("*.yaml"))}
    if BASE not in there:
        parser.error(f"{folder}: expected a {BASE}.yaml and rows beside it")
    for name in names or []:
        if name not in there:
            parser.error(f"--rows {name}: {folder} has {', '.join(there)}")
    return [there[name] for name in names or (each for each in there if each != BASE)]


if __name__ == "__main__":
    main()
