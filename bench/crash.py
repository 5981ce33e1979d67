"""Does a killed run end as if nothing had happened? kill -9 at random moments, of one rank or of all, again and again.

A small real training (train.py's command line, validation and saving in between) is killed inside a step, a validation,
the copy of its state, the writing of a file or of shards, or between writing and renaming; where one rank is killed
alone, the others must end by themselves. The same command goes on, may be killed again, and is then left to its end.
Right is: no process is left, and losses and the last checkpoint (weights, average, optimiser) are those of a run that
nobody interrupted, bit for bit on one and two ranks, to 1e-6 relative on three.

    python bench/crash.py [--kills 20] [--ranks 1 2 3] [--seed 0]
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from bench.preempt import equal
from bench.tools.small_run import Running, start, write_data
from mmig.callbacks.preemption import Preempted  # noqa: F401, imported once, before ranks are forked
from mmig.checkpoints.checkpoint import read_checkpoint

NUM_STEPS = 24
KILLS_OF_A_RUN = 5
LIMIT = 60.0
"""Seconds from the kill to the end of the last process; a rank that hangs would take half an hour."""
TOLERANCE = 1e-6


class Moment(NamedTuple):
    """Inside what a kill comes: the letter that `Told` gives, up to the how-manieth, and seconds after it at most."""

    name: str
    letter: bytes
    most: int
    seconds: float


MOMENTS = (
    Moment("step", b"t", 14, 0.05),
    Moment("validation", b"v", 8, 0.02),
    Moment("copy", b"s", 2, 0.003),
    Moment("write", b"w", 3, 0.005),
    Moment("rename", b"r", 2, 0.0),
)


class Layout(NamedTuple):
    """Ranks and strategy of a run."""

    num_ranks: int
    strategy: str

    def __str__(self) -> str:
        return f"{self.num_ranks} x {self.strategy}"


LAYOUTS = (Layout(1, "auto"), Layout(2, "ddp"), Layout(2, "fsdp2"), Layout(3, "ddp"), Layout(3, "fsdp2"))


@dataclass
class Tally:
    """What came of the runs of one layout.

    Attributes:
        kills: by moment. alone: kills of one rank of several. seconds: from such a kill to the end of the others.
        runs: finished ones. wrong: what was not as promised. largest: relative difference of the finished runs.
    """

    kills: dict[str, int] = field(default_factory=dict)
    alone: int = 0
    seconds: list[float] = field(default_factory=list)
    runs: int = 0
    wrong: list[str] = field(default_factory=list)
    largest: float = 0.0


def launch(folder: Path, name: str, layout: Layout, die_at_rename: int = 0) -> Running:
    """Give the command of a run."""
    settings = {
        "model.init_args.channels": 64,
        "data.init_args.global_batch_size": 6,
        "trainer.max_steps": NUM_STEPS,
        "trainer.strategy": layout.strategy,
        "checkpoint.every_n_steps": 4,
    }
    return start(folder, name, settings, num_ranks=layout.num_ranks, die_at_rename=die_at_rename)


def live(folder: Path, name: str, layout: Layout, draws: random.Random, tally: Tally) -> bool:
    """Give the command, kill at a random moment; whether it was killed, and did not end before."""
    moment, victim = draws.choice(MOMENTS), draws.choice([None, draws.randrange(layout.num_ranks)])
    number = draws.randint(1, moment.most)
    running = launch(folder, name, layout, number if moment.letter == b"r" else 0)
    try:
        if moment.letter == b"r":
            victim = victim and 0  # it dies of itself, between two lines of the program
        reached = wait_for(running, moment.letter, number)
        until = time.monotonic() + draws.uniform(0, moment.seconds)
        while time.monotonic() < until:
            pass
        if reached:
            running.signal(signal.SIGKILL, victim)
        killed = time.monotonic()
        statuses = running.wait(LIMIT if reached else 300)
    finally:
        running.close()
    what = f"{name}: {moment.name} {number}, " + ("all ranks" if victim is None else f"rank {victim}")
    if statuses is None:
        tally.wrong.append(f"{what}: processes were left after {LIMIT:g} s")
        return True
    if -signal.SIGKILL not in statuses:
        if any(statuses):
            tally.wrong.append(f"{what}: ended with {statuses}")
        return False
    tally.kills[moment.name] = tally.kills.get(moment.name, 0) + 1
    if victim is not None and layout.num_ranks > 1:
        tally.alone += 1
        tally.seconds.append(time.monotonic() - killed)
    return True


def wait_for(running: Running, letter: bytes, number: int) -> bool:
    """Wait until the run has told a letter so often; False if it ended before."""
    while number:
        found = os.read(running.told, 1)
        if not found:
            return False
        number -= found == letter
    return True


def finish(folder: Path, name: str, layout: Layout) -> str:
    """Give the command until its end; what went wrong, if anything."""
    running = launch(folder, name, layout)
    try:
        statuses = running.wait(300)
    finally:
        running.close()
    return "" if statuses == [0] * layout.num_ranks else f"{name}: the resumed run ended with {statuses}"


def result(folder: Path, name: str) -> dict[str, Any]:
    """Losses and last checkpoint of a finished run."""
    losses = dict(line.split() for line in (folder / f"{name}.losses").read_text().splitlines())
    last = read_checkpoint(folder / "runs" / name / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt")
    parts = {part: last[part] for part in ("state_dict", "ema", "optimizer_states", "step")}
    return {"losses": {int(step): float.fromhex(loss) for step, loss in losses.items()}, **parts}


def relative(ours: Any, theirs: Any) -> float:
    """Largest difference of two nests of tensors and numbers, relative to the largest value of its tensor."""
    if isinstance(theirs, dict):
        same = ours.keys() == theirs.keys()
        return max((relative(ours[key], theirs[key]) for key in theirs), default=0.0) if same else float("inf")
    if isinstance(theirs, list | tuple):
        return max((relative(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    if isinstance(theirs, float | torch.Tensor):
        a, b = torch.as_tensor(ours).double(), torch.as_tensor(theirs).double()
        return float((a - b).abs().max() / b.abs().max().clamp(min=1e-30))
    return 0.0 if ours == theirs else float("inf")


def compare(folder: Path, name: str, whole: str, layout: Layout, tally: Tally) -> None:
    """Compare a finished run with the one that nobody interrupted."""
    ours, theirs = result(folder, name), result(folder, whole)
    if len(ours["losses"]) != NUM_STEPS:
        tally.wrong.append(f"{name}: {len(ours['losses'])} steps")
        return
    difference = relative(ours, theirs)
    tally.largest = max(tally.largest, difference)
    if difference > TOLERANCE or (layout.num_ranks < 3 and not equal(ours, theirs)):
        tally.wrong.append(f"{name}: differs from the uninterrupted run by {difference:.1e}")


def measure(folder: Path, layout: Layout, kills: int, seed: int) -> Tally:
    """Kill runs of one layout, so many times in all."""
    tally, draws, title = Tally(), random.Random(seed), f"{layout.num_ranks}-{layout.strategy}"
    if wrong := finish(folder, f"{title}-whole", layout):
        sys.exit(f"error: {wrong}: {(folder / f'{title}-whole.log').read_text()[-1000:]}")
    left = kills
    while left > 0:
        name = f"{title}-{tally.runs}"
        for _ in range(min(left, KILLS_OF_A_RUN)):
            if not live(folder, name, layout, draws, tally):
                break
            left -= 1
        tally.runs += 1
        if wrong := finish(folder, name, layout):
            tally.wrong.append(f"{wrong}: {(folder / f'{name}.log').read_text()[-1000:]}")
        else:
            compare(folder, name, f"{title}-whole", layout, tally)
    return tally


def describe(layout: Layout, tally: Tally) -> str:
    """One line on a layout."""
    moments = ", ".join(f"{count} {name}" for name, count in sorted(tally.kills.items()))
    alone = f"; {tally.alone} of one rank alone, the others ended after {median(tally.seconds):.1f} s (median), " \
            f"{max(tally.seconds):.1f} s at most" if tally.seconds else ""  # fmt: skip
    return (
        f"{layout}: {sum(tally.kills.values())} kills ({moments}{alone}), {tally.runs} runs, "
        f"{len(tally.wrong)} wrong, largest difference {tally.largest:.1e}"
    )


def main() -> None:
    """Kill, resume, compare; print what was right."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="for each number of ranks and strategy")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())  # TemporaryDirectory would be cleaned up by each fork that ends
    tallies: dict[Layout, Tally] = {}
    try:
        write_data(folder)
        for layout in [layout for layout in LAYOUTS if layout.num_ranks in options.ranks]:
            tallies[layout] = measure(folder, layout, options.kills, options.seed)
            print(describe(layout, tallies[layout]), flush=True)
            print("".join(f"  {wrong}\n" for wrong in tallies[layout].wrong), end="", flush=True)
    finally:
        shutil.rmtree(folder)
    runs, wrong = sum(t.runs for t in tallies.values()), sum(len(t.wrong) for t in tallies.values())
    kills = sum(sum(t.kills.values()) for t in tallies.values())
    print(
        f"crash_resume ratio {max(0, runs - wrong) / max(1, runs):.3f} (goal 1.000; {runs} runs of {NUM_STEPS} steps, "
        f"{kills} kills, {', '.join(map(str, tallies))}; load {os.getloadavg()[0]:.1f})"
    )


if __name__ == "__main__":
    main()
