"""What lets a tiny editor learn fast: minutes of one core until so many of the edits succeed and keep the rest.

Each row is a file that says how it differs from base.yaml beside it; base.yaml itself is a row too. Each trains in a
process of its own on one thread for as many samples, and edits the same validation samples with the same noise on the
way. Then each is timed in turn: the median processor time of a few steps. Minutes are samples times that, so that they
do not depend on what else the machine does while it trains; nothing else should run while it is timed. A row that is
measured is not measured again.

    python bench/learning.py [configs/results/learning/base.yaml ...] [--seeds 0] [--figure docs/learning.png]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.tools.learning_curves import LearningCurve, Look, Speed, draw_curves, minutes_to, table
from bench.tools.set_up import NEVER, UNDISTURBED, SetUp
from mmig.base.commands import OptionParser, positive
from mmig.base.files import write_json

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "configs" / "results" / "learning"
BASE = "base"
LOOKS = 3
"""How often the edits are looked at in a training."""
SPEED_STEPS = 8
"""That a row is timed for."""


def configs_of(row: Path) -> list[Path]:
    """Files of a row: base.yaml, and what differs."""
    return [row.with_name(f"{BASE}.yaml"), *([] if row.stem == BASE else [row])]


def set_up(row: Path, seed: int, runs: Path) -> SetUp:
    """Module and trainer of a row, without anything but the training.

    Args:
        row: its file, merged into base.yaml as train.py does.
        seed: of weights, draws and order.
        runs: folder for the log.
    """
    files = [word for path in configs_of(row) for word in ("--config", str(path.resolve()))]
    given = {
        "runs": runs,
        "trainer.max_steps": NEVER,
        "trainer.callbacks": "[]",
        **UNDISTURBED,
        "model.init_args.seed": seed,
        "data.init_args.seed": seed,
        "seed_everything": seed,
    }
    return SetUp(["fit", *files, *(f"--{name}={value}" for name, value in given.items())])


def curve(row: Path, seed: int, samples: int, edited: int, runs: Path) -> dict[str, Any]:
    """Train once in this process for so many samples; what was seen of so many edits on the way."""
    made, seen = set_up(row, seed, runs), LearningCurve(samples, LOOKS, edited)
    made.trainer.callbacks.append(seen)
    made.trainer.fit(made.model, made.datamodule)
    parameters = sum(each.numel() for each in made.model.unet.parameters())
    return {"seed": seed, "parameters": parameters, "looks": [look._asdict() for look in seen.looks]}


def speed(row: Path, runs: Path) -> dict[str, Any]:
    """Time some steps in this process: processor time a sample, and how busy the machine was."""
    made, timed = set_up(row, 0, runs), Speed(SPEED_STEPS)
    made.trainer.callbacks.append(timed)
    made.trainer.fit(made.model, made.datamodule)
    return {"seconds": timed.seconds / made.datamodule.global_batch_size, "load": os.getloadavg()[0]}


def measured(row: Path, what: str, options: argparse.Namespace) -> dict[str, Any]:
    """The curve of a seed, or the "speed" of a row: read, or measured in a process of its own."""
    file = options.out / f"{row.stem}-{what}.json"
    if not file.is_file():
        words = [str(row), "--train-samples", str(options.train_samples), "--edited", str(options.edited)]
        began = time.monotonic()
        command = [sys.executable, __file__, *words, "--out", str(options.out), "--here", what]
        subprocess.run(command, cwd=ROOT, check=True)
        print(f"{row.stem}, {what}: measured in {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
    return json.loads(file.read_text(encoding="utf-8"))


def measure_here(row: Path, what: str, options: argparse.Namespace) -> None:
    """Measure in this process and write it down."""
    runs = options.out / f"{row.stem}-{what}"
    found = speed(row, runs) if what == "speed" else curve(row, int(what), options.train_samples, options.edited, runs)
    write_json(options.out / f"{row.stem}-{what}.json", {"row": row.stem} | found)


def main(arguments: list[str] | None = None) -> None:
    """Measure rows and print their table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=Path, default=sorted(ROWS.glob("*.yaml")), help=f"default: {ROWS}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--train-samples", type=positive, default=15360, help="that each row trains on")
    parser.add_argument("--edited", type=positive, default=200, help="validation samples that are edited at a look")
    parser.add_argument("--target", type=float, default=0.15, help="joint share that minutes are counted to")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="what was measured, a file each")
    parser.add_argument("--figure", type=Path, help="draw the curves (needs the extra `bench`)")
    parser.add_argument("--untimed", action="store_true", help="train only, for a machine that does other things")
    parser.add_argument("--here", metavar="SEED", help=argparse.SUPPRESS)  # measure one row in this process
    options = parser.parse_args(arguments)
    options.rows, options.out = [row.resolve() for row in options.rows], options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.here:
        measure_here(options.rows[0], options.here, options)
        return
    curves = {
        row.stem: [
            [Look(**look) for look in measured(row, str(seed), options)["looks"]] for seed in seeds_of(row, options)
        ]
        for row in options.rows
    }
    if options.untimed:
        return
    speeds = {row.stem: measured(row, "speed", options)["seconds"] for row in options.rows}
    print(table(curves, speeds, options.target))
    reached = {row: minutes_to(looks[0], options.target, speeds[row]) for row, looks in curves.items()}
    for row, minutes in reached.items():
        if minutes is not None and reached.get(BASE) is not None:
            print(f"learning/{row} ratio {reached[BASE] / minutes:.2f} (no goal: {minutes:.1f} minutes)")
    if options.figure is not None:
        draw_curves(curves, speeds, options.target, options.figure)


def seeds_of(row: Path, options: argparse.Namespace) -> list[int]:
    """The seeds that are asked for, and those of the row that are measured already."""
    there = {int(file.stem.rpartition("-")[2]) for file in options.out.glob(f"{row.stem}-[0-9]*.json")}
    return sorted({*options.seeds, *there})


if __name__ == "__main__":
    main()
