"""A training step of the demo alone, and beside busy programs: what each way of waiting for other threads costs.

Each line is a way: torch's own, some lengths of spinning (GOMP_SPINCOUNT), no spinning (OMP_WAIT_POLICY=passive), one
thread less than cores, and what the programs of this repository do (`mmig/base/processor.py`). Steps are taken in
processes of their own with as many busy single-threaded programs beside as the column says; ways and loads take turns,
round by round. The figures are medians of all rounds' medians, in seconds and as a multiple of torch's own step alone.

    python bench/busy.py [--rounds 3] [--steps 12] [--busy 0 1 2] [--ways default ours]

Goals on two cores: alone at most 1.05, beside one busy program at most 2.5. On a machine that does nothing else.
"""

import argparse
import os
import statistics
import sys
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.tools.beside import busy_programs
from bench.tools.steps_apart import step_seconds
from mmig.base.commands import OptionParser, positive

OWN, OURS = "default", "ours"
CORES = os.sched_getaffinity(0)
WAYS: dict[str, dict[str, str]] = {
    OWN: {},
    "spin_1000": {"GOMP_SPINCOUNT": "1000"},
    "spin_5000": {"GOMP_SPINCOUNT": "5000"},
    "spin_20000": {"GOMP_SPINCOUNT": "20000"},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "one_thread_less": {"OMP_NUM_THREADS": str(max(1, len(CORES) - 1))},
    OURS: {},
}
"""What is in the environment."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
"""Of the caller's environment these are not handed on: `make bench` sets the first two."""
GOALS = {0: 1.05, 1: 2.5}


def seconds_beside(way: str, busy: int, options: argparse.Namespace) -> float:
    """Median of the steps of one process, beside so many busy programs."""
    environment = {name: value for name, value in os.environ.items() if name not in THREADS} | WAYS[way]
    more = ["--share-cores"] if way == OURS else []
    with busy_programs([CORES] * busy):
        return step_seconds(options.config, options.batch, options.steps, *more, environment=environment)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print a line for each way and load."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/demo/stage1.yaml", help="whose steps")
    parser.add_argument("--batch", type=positive, default=16, help="samples a step")
    parser.add_argument("--steps", type=positive, default=12, help="timed steps of a process")
    parser.add_argument("--rounds", type=positive, default=1)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1], help="programs beside")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[OWN, OURS])
    options = parser.parse_args(arguments)
    seconds: dict[tuple[str, int], list[float]] = {}
    for number, busy, way in product(range(options.rounds), options.busy, options.ways):
        taken = seconds_beside(way, busy, options)
        seconds.setdefault((way, busy), []).append(taken)
        sys.stderr.write(f"round {number + 1} of {options.rounds}, {busy} beside, {way}: {taken:.3f} s\n")
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    alone = medians.get((OWN, 0))
    for (way, busy), value in medians.items():
        goal = f"goal <= {GOALS[busy]}, " if way == OURS and busy in GOALS and len(CORES) == 2 else ""
        ratio = f"ratio {value / alone:.2f}" if alone else "step"
        print(
            f"busy/{way}/beside_{busy} {ratio} ({goal}{value:.3f} s a step of {options.batch}, "
            f"{len(CORES)} cores, {options.rounds} rounds of {options.steps} steps)"
        )


if __name__ == "__main__":
    main()
