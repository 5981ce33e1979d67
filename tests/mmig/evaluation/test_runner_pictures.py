"""What the runner makes of editors that have their pictures already, and which attached ones a grid shows."""

from typing import Any

import torch

from mmig.editor import EditOutput, NoSettings
from mmig.evaluation.runner import evaluate_editor
from mmig.evaluation.summary import summarise
from mmig.metrics.suite import MetricSuite
from tests.mmig.evaluation.support import BrightJudge, NoisyCopy, batches
from tests.mmig.metrics.support import random_batch

NAMES = ["l1_target", "ssim_target", "success"]


class Pictures:
    """Knows its results of two seeds; has none of the second sample."""

    sampling, required_fields, response_source = NoSettings(), (), "none"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def at_seed(self, seed: int) -> "Pictures":
        return Pictures(seed)

    def __call__(self, batch: dict[str, Any], generator: Any) -> EditOutput:
        images = torch.full_like(batch["target"], 0.5 * self.seed)
        images[1] = torch.nan
        return EditOutput(images, ["x"] * len(images), {"missing": [row == 1 for row in range(len(images))]})


def test_a_sample_without_a_picture_is_skipped_by_every_metric_and_in_the_grid() -> None:
    batch = random_batch(3)
    result = evaluate_editor(Pictures(), batches(batch, 3), MetricSuite(NAMES, judge=BrightJudge()), (0, 1))
    skipped = [row for row in result.rows if row.key == batch["key"][1]]
    assert len(skipped) == 2 and all(row.skipped == dict.fromkeys(NAMES, "no_picture") for row in skipped)
    assert all(set(row.values.values()) == {None} for row in skipped)
    assert [example.key for example in result.examples] == [batch["key"][0], batch["key"][2]]
    assert summarise(result.rows)["l1_target"]["n"] == 2


def test_an_editor_that_knows_seeds_is_asked_for_each() -> None:
    batch = random_batch(3)
    rows = evaluate_editor(Pictures(), batches(batch, 3), MetricSuite(["success"], judge=BrightJudge()), (0, 1)).rows
    assert {row.seed: row.values["success"] for row in rows if row.key == batch["key"][0]} == {0: 0.0, 1: 1.0}


def test_the_grid_shows_attached_pictures_but_no_answer() -> None:
    batch = random_batch(2)
    batch["attachment_images"] = torch.stack([torch.full((3, 8, 8), value) for value in (-1.0, 0.0, 1.0) * 2]).view(
        2, 3, 3, 8, 8
    )
    batch["has_attachment_images"] = torch.tensor([[True, False, True], [False, False, False]])
    batch["attachment_roles"] = [["subject", "", "answer"], ["", "", ""]]
    first, second = evaluate_editor(NoisyCopy(), batches(batch, 2), MetricSuite(["l1_target"])).examples
    assert [int(pixels.max()) for pixels in first.references] == [0] and second.references == ()
    assert first.references[0].shape == (8, 8, 3)
