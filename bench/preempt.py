"""Does a signalled run end whole and continue exactly? SIGTERM and SIGUSR1, to one rank and to all, at random moments.

A small real training (train.py's command line, two gloo ranks with a loader worker each, validation and saving in
between) is signalled at a random moment inside a step, a save or a validation. Right is: every rank ends with its
documented status and no process is left within 10 s of the signal; the checkpoint that the last line of the log names
is whole and of that step; and the same command then ends with the losses and the checkpoint (weights, average,
optimiser), bit for bit, of a run that nobody interrupted. Beside it: how often Lightning's own handling of SIGTERM ends
all processes within the same time, whatever it leaves behind.

    python bench/preempt.py [--runs 20] [--stock 4] [--seed 0]
"""

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import lightning as L
import torch

import mmig.run.cli
from bench.tools.small_run import NUM_RANKS, Running, start, write_data
from mmig.callbacks.preemption import Preemption
from mmig.checkpoints.checkpoint import read_checkpoint

LIMIT = 10.0
"""Seconds from the signal to the end of the last process."""
NUM_STEPS = 24
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
PHASES = {b"t": 15, b"v": 12, b"s": 2}
"""Inside what a signal may come (step, validation batch, save), and up to the how-manieth of them."""
LAST_LINE = re.compile(r"(SIG\w+) after step (\d+): saved (\S+);")


@dataclass
class Outcome:
    """What came of one signal.

    Attributes:
        seconds: to the end of the last process; infinite if that was late.
        wrong: what was not as promised; empty if all was.
    """

    seconds: float
    wrong: str


def signal_at_random(running: Running, number: int, to_all: bool, draws: random.Random) -> float:
    """Signal the run at a random moment; returns when that was."""
    phase = draws.choice(list(PHASES))
    running.wait_for(phase, draws.randint(1, PHASES[phase]))
    until = time.monotonic() + draws.uniform(0, 0.05)  # somewhere inside it, not always at its beginning
    while time.monotonic() < until:
        pass
    running.signal(number, None if to_all else draws.randrange(NUM_RANKS))
    return time.monotonic()


def interrupt(folder: Path, name: str, number: int, to_all: bool, seed: int) -> Outcome:
    """Start run `name`, signal it, and see how it ends."""
    running = start(folder, name, {"trainer.max_steps": NUM_STEPS})
    try:
        signalled = signal_at_random(running, number, to_all, random.Random(seed))
        statuses = running.wait(LIMIT)
    finally:
        running.close()
    if statuses is None:
        return Outcome(float("inf"), f"processes were left after {LIMIT:g} s")
    seconds = time.monotonic() - signalled
    expected = [128 + number, *[0] * (NUM_RANKS - 1)]
    if statuses != expected:
        return Outcome(seconds, f"exit statuses {statuses} instead of {expected}")
    line = running.log.read_text().rstrip().rpartition("\n")[2]
    said = LAST_LINE.match(line)
    if said is None or said[1] != signal.Signals(number).name:
        return Outcome(seconds, f"last line of the log: {line}")
    step = read_checkpoint(said[3])["step"]
    return Outcome(seconds, "" if step == int(said[2]) else f"the checkpoint is of step {step}: {line}")


def finish(folder: Path, name: str) -> str:
    """Give the command of run `name` until its end; what went wrong, if anything."""
    running = start(folder, name, {"trainer.max_steps": NUM_STEPS})
    try:
        statuses = running.wait(300)
    finally:
        running.close()
    return "" if statuses == [0] * NUM_RANKS else f"the resumed run ended with {statuses}"


def difference(folder: Path, name: str, whole: str = "whole") -> str:
    """The first thing in which two finished runs differ; empty if there is none."""
    losses = [dict(line.split() for line in (folder / f"{n}.losses").read_text().splitlines()) for n in (name, whole)]
    if losses[0] != losses[1] or len(losses[0]) != NUM_STEPS:
        return "the losses differ"
    last = f"checkpoints/step-{NUM_STEPS:08d}.ckpt"
    ours, theirs = (read_checkpoint(folder / "runs" / n / last) for n in (name, whole))
    for part in ("state_dict", "ema", "optimizer_states"):
        if not equal(ours[part], theirs[part]):
            return f"{part} of the last checkpoint differs"
    return ""


def equal(left: Any, right: Any) -> bool:
    """Whether two nests of tensors and values are the same to the last bit."""
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(equal, left, right))
    return left == right


def trial(folder: Path, name: str, number: int, to_all: bool, seed: int) -> Outcome:
    """One run with a signal, continued to its end and compared."""
    outcome = interrupt(folder, name, number, to_all, seed)
    if not outcome.wrong:
        outcome.wrong = finish(folder, name) or difference(folder, name)
    return outcome


def with_stock_lightning() -> None:
    """Let Lightning handle signals in this process, and nothing of ours."""
    mmig.run.cli.without_lightning_signals = lambda trainer: trainer
    Preemption.on_train_start = lambda self, trainer, pl_module: None


def stock_ends(folder: Path, name: str, to_all: bool, seed: int) -> bool:
    """Whether all processes of a run with Lightning's handling end within the time after SIGTERM."""
    running = start(folder, name, {"trainer.max_steps": 10 * NUM_STEPS}, with_stock_lightning)
    try:
        signal_at_random(running, signal.SIGTERM, to_all, random.Random(seed))
        return running.wait(LIMIT) is not None
    finally:
        running.close()


def measure(folder: Path, runs: int, stock_runs: int, seed: int) -> tuple[list[Outcome], dict[bool, int]]:
    """All outcomes, and how many runs with Lightning's handling ended in time, by whether all ranks were signalled."""
    write_data(folder)
    if wrong := finish(folder, "whole"):
        sys.exit(f"error: {wrong}: {(folder / 'whole.log').read_text()[-1000:]}")
    outcomes: list[Outcome] = []
    for number in SIGNALS:
        for to_all in (False, True):
            kind = f"{signal.Signals(number).name}-{'all' if to_all else 'one'}"
            seeds = range(seed + 1000 * len(outcomes), seed + 1000 * len(outcomes) + runs)
            own = [trial(folder, f"{kind}-{run}", number, to_all, run) for run in seeds]
            outcomes += own
            print(f"{kind}: {sum(not outcome.wrong for outcome in own)} of {runs} right, {seconds_of(own)}", flush=True)
            for run, outcome in zip(seeds, own, strict=True):
                if outcome.wrong:
                    print(f"  {kind}-{run}: {outcome.wrong}", flush=True)
    ended = {
        to_all: sum(stock_ends(folder, f"stock-{to_all}-{run}", to_all, run) for run in range(stock_runs))
        for to_all in (False, True)
    }
    return outcomes, ended


def main() -> None:
    """Signal, resume, compare; print what was right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="runs for each signal, to one rank and to all")
    parser.add_argument("--stock", type=int, default=4, help="runs with Lightning's handling, to one rank and to all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())  # TemporaryDirectory would be cleaned up by each fork that ends
    try:
        outcomes, stock = measure(folder, options.runs, options.stock, options.seed)
    finally:
        shutil.rmtree(folder)
    right = sum(not outcome.wrong for outcome in outcomes)
    print(
        f"preempt ratio {right / max(1, len(outcomes)):.3f} (goal 1.000; {right} of {len(outcomes)} runs, "
        f"{seconds_of(outcomes)}; with Lightning {L.__version__}'s own handling all processes end in time after "
        f"SIGTERM to one rank in {stock[False]} of {options.stock}, to all in {stock[True]} of {options.stock}; "
        f"load {os.getloadavg()[0]:.1f})"
    )


def seconds_of(outcomes: list[Outcome]) -> str:
    """Median and longest time from signal to end."""
    seconds = [outcome.seconds for outcome in outcomes] or [0.0]
    return f"ended {median(seconds):.2f} s after the signal (median), {max(seconds):.2f} s at most"


if __name__ == "__main__":
    main()
