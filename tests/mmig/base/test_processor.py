"""Threads sleep instead of spinning while others want their cores, and spin again afterwards."""

import json
import os
import subprocess
import sys
import time

import pytest

from bench.tools.beside import busy_programs
from mmig.base.processor import CALM_LOOKS, SharedCores, Times, waited_for_cores

PROGRAM = """
import json, os, sys, time
from mmig.base import processor
processor.share_cores()
import torch
watch, until = processor._sharing, time.monotonic() + 30
def work():
    a, product = torch.ones(2**18), torch.randn(256, 256)
    for _ in range(40):
        a = a * 1.0001 + 0.5
        product = torch.tanh(product @ product)
def wait_for(asleep):
    while watch.asleep != asleep and time.monotonic() < until:
        work()
    print(json.dumps(watch.asleep), flush=True)
    sys.stdin.readline()
wait_for(True)
until = time.monotonic() + (30 if os.getloadavg()[0] < 2 else 5)
wait_for(False)
print(json.dumps(torch.get_num_threads()), flush=True)
"""
SPUN = """
import time
from mmig.base.processor import SharedCores
import torch
watch = SharedCores()
watch.close()
def processor_seconds():
    a, start = torch.ones(2**18), time.process_time()
    for _ in range(200):
        a = a + 1
        time.sleep(0.001)
    return time.process_time() - start
processor_seconds()
spinning = processor_seconds()
watch.look(1.0)
assert watch.asleep
time.sleep(0.2)
asleep = processor_seconds()
for _ in range(10):
    watch.look(0.0)
time.sleep(0.2)
print(spinning, asleep, processor_seconds())
"""
TWO_CORES = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2 or not os.path.exists("/proc/self/task"), reason="needs two cores, and Linux"
)


@TWO_CORES
def test_threads_sleep_beside_others_and_spin_again_when_these_are_gone() -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "MKL", "GOMP"))}
    program = subprocess.Popen(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {set(cores)})\n{PROGRAM}"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    try:
        with busy_programs([{core} for core in cores]):
            assert json.loads(program.stdout.readline()) is True
            program.stdin.write("\n")
            program.stdin.flush()
        # on a machine that others keep busy its threads may rightly stay asleep
        spins = not json.loads(program.stdout.readline()) or os.getloadavg()[0] > 2
        assert spins
        program.stdin.write("\n")
        program.stdin.flush()
        assert json.loads(program.stdout.readline()) == 2  # as many threads as before compute
    finally:
        program.kill()
        program.wait()


@TWO_CORES
def test_a_thread_that_sleeps_takes_no_time_while_it_waits() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP", "MKL", "GOMP"))}
    done = subprocess.run([sys.executable, "-c", SPUN], env=environment, capture_output=True, text=True, check=True)
    spinning, asleep, spinning_again = map(float, done.stdout.split())
    assert asleep < 0.6 * min(spinning, spinning_again)


def times(**threads: tuple[float, float]) -> Times:
    return dict(threads)


def test_only_threads_that_compute_are_counted() -> None:
    before = times(main=(10.0, 1.0), helper=(0.5, 0.0), gone=(3.0, 0.0))
    after = times(main=(10.4, 1.1), helper=(0.51, 0.4), new=(1.0, 1.0))
    assert waited_for_cores(before, after, 0.5) == pytest.approx(0.2)


def test_one_calm_look_is_not_enough() -> None:
    watch = SharedCores()
    watch.close()
    watch.asleep = True
    for share in [0.0] * (CALM_LOOKS - 1) + [0.1] + [0.0] * (CALM_LOOKS - 1):
        watch.look(share)
        assert watch.asleep
    watch.look(0.0)
    assert not watch.asleep


def test_closing_is_quick() -> None:
    start = time.monotonic()
    SharedCores().close()
    assert time.monotonic() - start < 5
