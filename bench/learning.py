"""What lets a tiny editor learn fast: minutes of one core until so many of the edits succeed and keep the rest.

Each row is a file that says how it differs from base.yaml beside it; base.yaml itself is a row too. Rows train in
turn, each in a process of its own on one thread, all for as many minutes of processor time, and edit the same
validation samples with the same noise on the way (not counted). A row that is measured is not measured again.

    python bench/learning.py [configs/results/learning/base.yaml ...] [--seeds 0] [--figure docs/learning.png]
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.tools.learning_curves import LearningCurve, Look, draw_curves, minutes_to, table
from bench.tools.set_up import NEVER, UNDISTURBED, SetUp
from mmig.base.commands import OptionParser, positive

ROOT = Path(__file__).resolve().parent.parent
ROWS = ROOT / "configs" / "results" / "learning"
BASE = "base"
LOOKS = 3
"""How often the edits are looked at in a training."""


def configs_of(row: Path) -> list[Path]:
    """Files of a row: base.yaml, and what differs."""
    return [row.with_name(f"{BASE}.yaml"), *([] if row.stem == BASE else [row])]


def curve(configs: Sequence[Path], seed: int, minutes: float, samples: int, runs: Path) -> dict[str, Any]:
    """Train once in this process; what was seen on the way.

    Args:
        configs: merged in order, as train.py does.
        seed: of weights, draws and order. minutes: of processor time to train.
        samples: of the validation split that are edited at each look.
        runs: folder for the log.
    """
    files = [word for path in configs for word in ("--config", str(path.resolve()))]
    given = {
        "runs": runs,
        "trainer.max_steps": NEVER,
        "trainer.callbacks": "[]",
        **UNDISTURBED,
        "model.init_args.seed": seed,
        "data.init_args.seed": seed,
        "seed_everything": seed,
    }
    made = SetUp(["fit", *files, *(f"--{name}={value}" for name, value in given.items())])
    seen = LearningCurve(minutes, LOOKS, samples)
    made.trainer.callbacks.append(seen)
    made.trainer.fit(made.model, made.datamodule)
    parameters = sum(each.numel() for each in made.model.unet.parameters())
    looks = [look._asdict() for look in seen.looks]
    return {"seed": seed, "parameters": parameters, "steps": made.model.step, "looks": looks}


def measure(row: Path, seed: int, options: argparse.Namespace) -> list[Look]:
    """What was seen of a row: read, or measured in a process of its own."""
    file = options.out / f"{row.stem}-{seed}.json"
    if not file.is_file():
        words = [str(row), "--seeds", str(seed), "--minutes", str(options.minutes), "--samples", str(options.samples)]
        began = time.monotonic()
        subprocess.run([sys.executable, __file__, *words, "--out", str(options.out), "--here"], cwd=ROOT, check=True)
        print(f"{row.stem}, seed {seed}: {(time.monotonic() - began) / 60:.1f} minutes with looking", flush=True)
    return [Look(**look) for look in json.loads(file.read_text(encoding="utf-8"))["looks"]]


def main(arguments: list[str] | None = None) -> None:
    """Measure rows and print their table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", type=Path, default=sorted(ROWS.glob("*.yaml")), help=f"default: {ROWS}")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=6, help="of processor time that each row trains")
    parser.add_argument("--samples", type=positive, default=100, help="validation samples that are edited at a look")
    parser.add_argument("--target", type=float, default=0.2, help="joint share that minutes are counted to")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="what was measured, a file a row")
    parser.add_argument("--figure", type=Path, help="draw the curves (needs the extra `bench`)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)  # train one row in this process
    options = parser.parse_args(arguments)
    options.rows, options.out = [row.resolve() for row in options.rows], options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.here:
        (row,), (seed,) = options.rows, options.seeds
        name = f"{row.stem}-{seed}"
        found = curve(configs_of(row), seed, options.minutes, options.samples, options.out / name)
        (options.out / f"{name}.json").write_text(json.dumps({"row": row.stem} | found, indent=1), encoding="utf-8")
        return
    curves = {row.stem: [measure(row, seed, options) for seed in options.seeds] for row in options.rows}
    print(table(curves, options.target))
    reached = {row: minutes_to(looks[0], options.target) for row, looks in curves.items()}
    for row, minutes in reached.items():
        if minutes is not None and reached.get(BASE) is not None:
            print(f"learning/{row} ratio {reached[BASE] / minutes:.2f} (no goal: {minutes:.1f} minutes)")
    if options.figure is not None:
        draw_curves(curves, options.target, options.figure)


if __name__ == "__main__":
    main()
