"""The program in processes of its own, which a test may kill."""

import json
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from mmig.evaluation.judged.__main__ import main
from mmig.evaluation.judged.record import FILE

LIMIT = 240
"""Seconds that a process may take."""
SMALL = ("--device", "cpu", "--max-tokens", "32")
"""A reply of a random judge ends only there; so many tokens take it long enough to be killed meanwhile."""


def _child(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    main(arguments)


@contextmanager
def running(arguments: Sequence[str]) -> Iterator[multiprocessing.process.BaseProcess]:
    """A process of the program; killed at the end where it still runs."""
    process = multiprocessing.get_context("fork").Process(target=_child, args=(list(arguments),))  # imports are done
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def kill_after(out: Path, num_rows: int, arguments: Sequence[str]) -> None:
    """SIGKILL as soon as judge.jsonl has so many rows."""
    end = time.monotonic() + LIMIT
    with running(arguments) as process:
        while num_lines(out) < num_rows:
            assert process.is_alive(), "ended before it could be killed"
            assert time.monotonic() < end, f"{num_lines(out)} rows, expected {num_rows}"
            time.sleep(0.005)
    assert process.exitcode == -9


def num_lines(out: Path) -> int:
    """Whole lines of judge.jsonl."""
    path = out / FILE
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def rows_of(out: Path) -> list[dict[str, Any]]:
    """Rows of judge.jsonl."""
    return [json.loads(line) for line in (out / FILE).read_text(encoding="utf-8").splitlines()]


def results_of(out: Path, mode: str = "corrected") -> dict[str, Any]:
    """What metrics.MODE.json holds."""
    return json.loads((out / f"metrics.{mode}.json").read_text(encoding="utf-8"))
