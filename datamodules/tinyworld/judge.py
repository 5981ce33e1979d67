"""The oracle in the form that metrics are handed by `class_path`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from numpy.typing import ArrayLike

from datamodules.tinyworld.asked import asked
from datamodules.tinyworld.grammar import judge_text
from datamodules.tinyworld.illustration_reader import judge_illustration
from datamodules.tinyworld.illustrations import ATTRIBUTES, figure_of
from datamodules.tinyworld.multimodal_judge import judge_multimodal_edit, judge_several_edits
from datamodules.tinyworld.oracle import Verdict, judge
from datamodules.tinyworld.scene import SIDE
from datamodules.tinyworld.subject_judge import judge_drawing, judge_subject_edit

JUDGES: dict[str, Callable[[ArrayLike, dict[str, Any]], Verdict]] = {
    "tinyworld": judge,
    "subjects": judge_subject_edit,
    "illustrations": judge_illustration,
    "multimodal": judge_multimodal_edit,
    "multimodal_several": judge_several_edits,
}
"""By the world that the metadata names."""


class TinyWorldJudge:
    """Scores an edited image of the small world, or a text, against its sample's metadata."""

    image_size = SIDE

    def __call__(self, image: ArrayLike, metadata: dict[str, Any] | None) -> dict[str, float]:
        """`success` and `preservation` (0 or 1), `details` (0 or 1) and `kept` (share of untouched objects).

        Of a sample with subjects also `fidelity` and `alignment` (`judge_drawing`).

        Args:
            image: [3, 64, 64] in [-1, 1], numpy or a torch tensor on the CPU.

        Raises:
            ValueError: no metadata, metadata of another data set, or an image of another shape.
        """
        facts = metadata or {}
        drawing = asdict(judge_drawing(image, facts)) if facts.get("world") == "subjects" else {}
        verdict = JUDGES.get(facts.get("world", ""), judge)(image, facts)
        return {
            "success": float(verdict.success),
            "preservation": float(verdict.preservation),
            "details": float(verdict.details),
            "kept": verdict.kept,
            **drawing,
        }

    def text(self, text: str, metadata: dict[str, Any]) -> bool:
        """Whether a text describes the goal image: all objects with their attributes and places, and the background.

        Of an illustration: whether its tags name every attribute.
        """
        if metadata.get("world") == "illustrations":
            figure = metadata["target_figure"]
            said = figure_of(text)
            return all(said.get(name, "") == figure[name] for name in ATTRIBUTES)
        return judge_text(text, metadata["target_scene"]).correct

    def asked(self, text: str, metadata: dict[str, Any]) -> dict[str, Any] | None:
        """Metadata by which a picture is judged that was edited by another text than its sample's.

        None where nobody can say what that text asks for.
        """
        return asked(text, metadata)
