"""What the three commands that score tiny backbones have in common: options about samples, judges, printing."""

import argparse
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any

from mmig.base.commands import OptionParser

ASSETS = Path("assets/tiny")
Scores = dict[str, float]


def load_function(path: str) -> Callable[..., Any]:
    """The function PACKAGE.MODULE.FUNCTION.

    Raises:
        ValueError: there is none.
    """
    module, _, name = path.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--judge: cannot load {path!r} ({error}); expected PACKAGE.MODULE.FUNCTION") from error


def options(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options about the samples."""
    parser = OptionParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("configs/data/plain.yaml"), help="YAML of a data set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="samples to use, default all")
    parser.add_argument("--batch-size", type=int, default=50)
    return parser


def held_out(arguments: argparse.Namespace) -> Iterable[Any]:
    """Batches of the samples that the options name."""
    from mmig.evaluation.data import split_batches

    return split_batches(arguments.data, arguments.split, arguments.batch_size, limit=arguments.limit)


def print_scores(scores: Scores) -> None:
    """One line a figure; counts without decimals."""
    for name, value in scores.items():
        line = f"{name:32s} {value:.4f}" if value < 2 or value % 1 else f"{name:32s} {value:.0f}"
        print(line)  # noqa: T201, the result of the command
