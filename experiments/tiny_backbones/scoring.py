"""What the commands that score tiny backbones have in common: options about samples, judges, retrieval, printing."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.base.commands import OptionParser

ASSETS = Path("assets/tiny")
GROUP = 100
"""Captions that an image is matched against."""
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


def retrieval(image_features: Tensor, text_features: Tensor, texts: Sequence[str]) -> Scores:
    """Share of images whose own caption is the nearest of `GROUP` different ones, and of captions with their image.

    Repeated captions are left out first; the rest is cut into groups in its order, a shorter last group is dropped
    unless it is the only one.
    """
    by_text: dict[str, int] = {}
    for index, text in enumerate(texts):
        by_text.setdefault(text, index)
    first = list(by_text.values())
    cosines = F.normalize(image_features[first], dim=-1), F.normalize(text_features[first], dim=-1)
    size = min(GROUP, len(first))
    groups = [slice(start, start + size) for start in range(0, len(first) - size + 1, size)]
    scores = torch.stack([cosines[0][group] @ cosines[1][group].T for group in groups])
    own = torch.arange(size)
    return {
        "image_to_text": (scores.argmax(2) == own).float().mean().item(),
        "text_to_image": (scores.argmax(1) == own).float().mean().item(),
        "captions_a_group": float(size),
        "images": float(len(groups) * size),
    }


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
