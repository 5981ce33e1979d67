"""Judges: objects outside of this package that know the right answer, handed in by class path."""

from importlib import import_module
from typing import Any, Protocol

from torch import Tensor


class JudgeError(ValueError):
    """A judge cannot be loaded."""


class Judge(Protocol):
    """Decides about one edited image from the metadata of its sample, as the small world's oracle does.

    A judge with an attribute `image_size` gets its images resized to that many pixels a side. One that can read has a
    method `text(text, metadata) -> bool`: whether a text describes the goal image of the sample.
    One that understands instructions has `asked(text, metadata) -> metadata or None`: by what an edit of the sample is
    judged that followed another instruction.
    """

    def __call__(self, image: Tensor, metadata: dict[str, Any]) -> dict[str, float]:
        """Image float [3,H,W] in [-1,1] -> scores by name, "success" and "preservation" among them."""
        ...


def can_read(judge: Judge | None) -> bool:
    """Whether a judge decides about texts too."""
    return hasattr(judge, "text")


def load_judge(class_path: str) -> Judge:
    """Instantiate a judge without arguments from its class path.

    Raises:
        JudgeError: if there is no such class.
    """
    module_name, _, class_name = class_path.rpartition(".")
    try:
        return getattr(import_module(module_name), class_name)()
    except (ImportError, AttributeError, ValueError) as error:
        raise JudgeError(f"judge: cannot load {class_path!r} ({error}); expected PACKAGE.MODULE.CLASS") from error
