"""Seconds of a configuration's training steps, taken in a process of its own: what that is started with decides.

    python bench/tools/steps_apart.py CONFIG BATCH STEPS [--precision bf16-mixed] [--share-cores]

prints those of each step as JSON. The environment says how many threads compute and how they wait; --share-cores is
what train.py does beside (`mmig/base/processor.py`).
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import lightning as L
import torch
import yaml

from bench.tools.loops import small_world
from bench.tools.trained import TrainedSteps, take_steps
from mmig.base.commands import OptionParser, keep_freed_memory
from mmig.base.processor import share_cores
from mmig.base.settings import instantiate
from mmig.training.module import TrainingModule

ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 2


class EachStep(TrainedSteps):
    """The seconds of each timed step, from the start of one batch to that of the next."""

    def __init__(self, steps: int) -> None:
        super().__init__(torch.device("cpu"), WARM_UP, steps + 1)
        self.starts: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Look at the clock."""
        self.starts.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        """Nothing: a step ends where the next one begins."""

    def each(self) -> list[float]:
        """Seconds of each step after those that warm up."""
        times = self.starts[WARM_UP:]
        return [after - before for before, after in pairwise(times)]


def step_seconds(
    config: str, batch: int, steps: int, *more: str, environment: Mapping[str, str] | None = None
) -> float:
    """Median of the seconds that each of some steps takes, in a process of its own.

    Args:
        config: whose steps, from the repository's root. batch: samples a step. steps: how many are timed.
        more: options of this program. environment: of the process.
    """
    command = [sys.executable, __file__, config, str(batch), str(steps), *more]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return statistics.median(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Take steps and print what each took."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("batch", type=int)
    parser.add_argument("steps", type=int)
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--share-cores", action="store_true")
    options = parser.parse_args()
    keep_freed_memory()
    if options.share_cores:
        share_cores()
    torch.manual_seed(0)
    module = instantiate(TrainingModule, yaml.safe_load(options.config.read_text())["model"])
    measured = EachStep(options.steps)
    take_steps(module, small_world(options.batch, 1)[0], measured, options.precision)
    print(json.dumps(measured.each()))


if __name__ == "__main__":
    main()
