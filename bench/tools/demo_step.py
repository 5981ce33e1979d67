"""Seconds of each step of a configuration's training in a process of its own, as JSON: what bench/busy.py starts.

    python bench/tools/demo_step.py CONFIG BATCH STEPS [--precision bf16-mixed] [--share-cores]

The environment that it is started with decides on threads and how they wait; --share-cores is what train.py does.
"""

import argparse
import json
import sys
import time
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
