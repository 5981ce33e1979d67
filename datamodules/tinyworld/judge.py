"""The oracle in the form that metrics are handed by `class_path`."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from datamodules.tinyworld.grammar import judge_text
from datamodules.tinyworld.oracle import judge
from datamodules.tinyworld.scene import SIDE


class TinyWorldJudge:
    """Scores an edited image of the small world, or a text, against its sample's metadata."""

    image_size = SIDE

    def __call__(self, image: ArrayLike, metadata: dict[str, Any] | None) -> dict[str, float]:
        """`success` and `preservation` (0 or 1), `details` (0 or 1) and `kept` (share of untouched objects).

        Args:
            image: [3, 64, 64] in [-1, 1], numpy or a torch tensor on the CPU.

        Raises:
            ValueError: no metadata, metadata of another data set, or an image of another shape.
        """
        verdict = judge(image, metadata or {})
        return {
            "success": float(verdict.success),
            "preservation": float(verdict.preservation),
            "details": float(verdict.details),
            "kept": verdict.kept,
        }

    def text(self, text: str, metadata: dict[str, Any]) -> bool:
        """Whether a text describes the goal image: all objects with their attributes and places, and the background."""
        return judge_text(text, metadata["target_scene"]).correct
