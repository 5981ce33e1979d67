"""What does it cost that ranks agree on signals? Steps of two gloo ranks with and without `mmig.training.agreement`.

A step is some computing and the sum of a gradient over both ranks, as data parallel training has it. Ten steps of each
kind alternate; the medians are compared. The third kind is Lightning's: a broadcast before each step, which every rank
waits for.

    python bench/agreement.py
"""

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mmig.training.agreement import Agreement

GOAL_MS = 0.3
SIDE, GRADIENT, STEPS, WARM_UP, BLOCK = 512, 100_000, 600, 30, 10


def measure(rank: int, folder: str) -> None:
    """One rank: the medians in milliseconds, and processor time beside, into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    agree, weights, gradient = Agreement(), torch.randn(SIDE, SIDE), torch.randn(GRADIENT)
    times: list[list[tuple[float, float]]] = [[], [], []]
    for step in range(3 * (STEPS + WARM_UP)):
        kind = step // BLOCK % 3
        begun = time.perf_counter(), time.process_time()
        if kind == 2:
            flag = torch.tensor([0])
            dist.broadcast(flag, src=0)
            assert not flag.item()
        torch.mm(weights, weights)
        dist.all_reduce(gradient)
        gradient /= 2
        if kind == 1:
            assert not agree(0)
        times[kind].append((1e3 * (time.perf_counter() - begun[0]), 1e3 * (time.process_time() - begun[1])))
    if rank == 0:
        rows = [[median(column) for column in zip(*rows[WARM_UP:], strict=True)] for rows in times]
        Path(folder, "medians").write_text("\n".join(f"{wall} {cpu}" for wall, cpu in rows))
    dist.destroy_process_group()


def main() -> None:
    """Measure and print one line."""
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(measure, (folder,), nprocs=2, start_method="fork")
        rows = [list(map(float, line.split())) for line in Path(folder, "medians").read_text().splitlines()]
    (plain, plain_cpu), (agreed, agreed_cpu), (broadcast, broadcast_cpu) = rows
    print(
        f"agreement ratio {plain / agreed:.3f} (goal: at most {GOAL_MS} ms a step; {agreed - plain:+.3f} ms a step of "
        f"{plain:.2f} ms, {agreed_cpu - plain_cpu:+.3f} ms of processor time; a broadcast that is waited for costs "
        f"{broadcast - plain:+.3f} and {broadcast_cpu - plain_cpu:+.3f} ms; medians of {STEPS} steps each, "
        f"load {os.getloadavg()[0]:.1f})"
    )


if __name__ == "__main__":
    main()
