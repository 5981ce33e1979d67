"""The judged benchmarks by name."""

from collections.abc import Callable
from functools import partial

from mmig.evaluation.judged import gedit, imgedit, kris, rededit, rise
from mmig.evaluation.judged.benchmark import Benchmark

BENCHMARKS: dict[str, Callable[[], Benchmark]] = {
    "gedit": gedit.benchmark,
    "imgedit": partial(imgedit.benchmark, "basic"),
    "imgedit_uge": partial(imgedit.benchmark, "uge"),
    "kris": kris.benchmark,
    "risebench": rise.benchmark,
    "rededit": rededit.benchmark,
}
EDITSCORE_SCALE = 25.0
"""EditScore's scores are 0 to 25 (VectorSpaceLab/EditScore, editscore/__init__.py)."""


def editscore() -> Benchmark:
    """GEdit-Bench's items as EditScore judges them."""
    return gedit.benchmark(EDITSCORE_SCALE)
