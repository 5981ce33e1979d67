import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.suite import METRICS, MetricSuite, UnknownMetricError, build_metrics, computable
from mmig.metrics.tools import NEEDS, MetricInputError, Tools
from tests.mmig.metrics.support import EvenJudge, random_batch, random_images


def test_an_unknown_metric_is_named_with_the_nearest_one() -> None:
    with pytest.raises(
        UnknownMetricError, match=r"'clip_scores' is unknown; did you mean 'clip_score'\?; known metrics"
    ):
        MetricSuite(["l1_target", "clip_scores"])


def test_a_clip_metric_without_an_encoder_says_what_to_give() -> None:
    with pytest.raises(MetricInputError, match="--clip"):
        MetricSuite(["clip_score"])


def test_a_judged_metric_without_a_judge_says_what_to_give() -> None:
    with pytest.raises(MetricInputError, match="--judge"):
        MetricSuite(["success"])


def test_only_pixel_and_text_metrics_are_computable_with_nothing() -> None:
    formulas = {f"{formula}_{image}" for formula in ("l1", "l2", "psnr", "ssim") for image in ("input", "target")}
    overlaps = {f"{kind}_{formula}" for kind in ("response", "caption") for formula in ("bleu", "rouge_l")}
    assert set(computable(())) == formulas | overlaps
    assert computable(NEEDS) == list(METRICS)
    assert set(METRICS) - set(computable(NEEDS.keys() - {"reader"})) == {"response_accuracy", "caption_accuracy"}


def test_tools_say_which_needs_they_meet(encoder: ClipEncoder) -> None:
    assert Tools().given == set()
    assert Tools(encoder, lambda image, metadata: {}).given == {"clip", "judge"}
    assert Tools(judge=EvenJudge()).given == {"judge", "reader"}


def test_a_judge_that_cannot_read_is_refused_for_texts() -> None:
    with pytest.raises(
        MetricInputError, match="needs a judge that reads texts; give a --judge CLASS_PATH with a method"
    ):
        MetricSuite(["caption_accuracy"], judge=lambda image, metadata: {})


def test_written_texts_are_read_by_the_judge() -> None:
    suite = MetricSuite(["response_accuracy", "caption_accuracy"], judge=EvenJudge())
    batch = random_batch(4)
    written = {"response": ["right", "wrong", "", "right"]}
    values = suite.update(suite.bank(batch, random_images(4), written))
    assert values["response_accuracy"].values[:2].tolist() == [1.0, 0.0]
    assert values["response_accuracy"].reasons == [None, None, "no_text_or_metadata", None]
    assert values["caption_accuracy"].reasons == ["no_text_or_metadata"] * 4


def test_the_mean_is_that_of_the_values_in_double_precision(encoder: ClipEncoder) -> None:
    suite = MetricSuite(["clip_image_similarity_target"], encoder)
    values = suite.update(suite.bank(random_batch(5), random_images(5)))["clip_image_similarity_target"].values
    metric = suite.metrics["clip_image_similarity_target"]
    for _ in range(2):
        assert metric.compute().dtype == torch.float64
        np.testing.assert_allclose(float(metric.compute()), values.numpy().mean(), rtol=1e-12)
        suite.reset()
        metric.update(values)


def test_input_and_target_variants_compare_with_different_images(encoder: ClipEncoder) -> None:
    names = ["l1_input", "l1_target", "clip_image_similarity_input", "clip_image_similarity_target"]
    batch = random_batch(4)
    suite = MetricSuite(names, encoder)
    suite.update(suite.bank(batch, batch["target"]))
    result = suite.compute()
    assert result["l1_target"] == 0 < result["l1_input"]
    assert result["clip_image_similarity_target"] > 0.999999 > result["clip_image_similarity_input"]


def test_zero_directions_are_skipped_and_say_why(encoder: ClipEncoder) -> None:
    batch, edited = random_batch(4), random_images(4)
    batch["target_caption"][0] = batch["source_caption"][0]
    edited[1] = batch["source"][1]
    suite = MetricSuite(["clip_directional_similarity"], encoder)
    values = suite.update(suite.bank(batch, edited))["clip_directional_similarity"]
    assert values.reasons == ["zero_text_direction", "zero_image_direction", None, None]
    np.testing.assert_allclose(suite.compute()["clip_directional_similarity"], np.nanmean(values.values.numpy()))


def test_what_a_sample_lacks_is_skipped_and_named(encoder: ClipEncoder) -> None:
    batch = random_batch(2)
    batch["has_target"][0] = False
    batch["target_caption"][0] = ""
    batch["metadata"][0] = {}
    suite = MetricSuite(["l1_target", "clip_score", "success"], encoder, EvenJudge())
    values = suite.update(suite.bank(batch, random_images(2)))
    assert {name: value.reasons[0] for name, value in values.items()} == {
        "l1_target": "no_target",
        "clip_score": "no_target_caption",
        "success": "no_metadata",
    }
    assert all(value.reasons[1] is None for value in values.values())


def test_a_score_that_the_judge_does_not_give_is_skipped_and_named(encoder: ClipEncoder) -> None:
    suite = MetricSuite(["success", "subject_fidelity"], encoder, EvenJudge())
    batch = random_batch(2)
    batch["metadata"][0] = {}
    values = suite.update(suite.bank(batch, random_images(2)))
    assert values["subject_fidelity"].reasons == ["no_metadata", "not_judged"]
    assert values["success"].reasons == ["no_metadata", None]


def test_a_broken_image_is_counted_and_not_averaged(encoder: ClipEncoder) -> None:
    edited = random_images(3)
    edited[2] = float("nan")
    suite = MetricSuite(["l1_target", "ssim_target", "clip_score", "success"], encoder, EvenJudge())
    values = suite.update(suite.bank(random_batch(3), edited))
    assert all(value.reasons == [None, None, "not_finite"] for value in values.values())
    assert all(math.isfinite(value) for value in suite.compute().values())


def test_nothing_counted_is_not_a_number_instead_of_zero() -> None:
    batch = random_batch(2)
    batch["has_target"][:] = False
    suite = MetricSuite(["l1_target"])
    suite.update(suite.bank(batch, random_images(2)))
    assert math.isnan(suite.compute()["l1_target"])


def test_an_edited_image_of_another_size_is_resized_to_the_target() -> None:
    batch = random_batch(2)
    larger = torch.nn.functional.interpolate(batch["target"], scale_factor=2, mode="nearest")
    suite = MetricSuite(["l1_target"])
    suite.update(suite.bank(batch, larger))
    assert suite.compute()["l1_target"] < 0.1  # unrelated images: 0.33


def test_success_is_the_share_that_the_judge_calls_right() -> None:
    suite = MetricSuite(["success", "preservation"], judge=EvenJudge())
    suite.update(suite.bank(random_batch(5), random_images(5)))
    assert suite.compute() == {"success": 3 / 5, "preservation": 1.0}


def test_joint_is_the_share_of_samples_that_have_success_and_preservation_at_once() -> None:
    class Judge:
        def __call__(self, image: Tensor, metadata: dict[str, Any]) -> dict[str, float]:
            return {"success": float(metadata["truth"] != 1), "preservation": float(metadata["truth"] != 3)}

    suite = MetricSuite(["joint", "success", "preservation"], judge=Judge())
    values = suite.update(suite.bank(random_batch(5), random_images(5)))
    assert values["joint"].values.tolist() == [1, 0, 1, 0, 1]
    assert suite.compute() == {"joint": 3 / 5, "success": 4 / 5, "preservation": 4 / 5}


def test_clip_score_is_two_and_a_half_times_the_positive_cosine(encoder: ClipEncoder) -> None:
    suite = MetricSuite(["clip_score", "clip_text_similarity"], encoder)
    values = suite.update(suite.bank(random_batch(6), random_images(6)))
    cosine = values["clip_text_similarity"].values
    torch.testing.assert_close(values["clip_score"].values, 2.5 * cosine.clamp_min(0))


class Loudness(PerSampleMetric):
    """One of a method's own: reads the batch, the edited images, the texts and the extras."""

    name = "loudness"
    higher_is_better = False

    def values(self, bank: FeatureBank) -> SampleValues:
        """Mean of the edited image, plus the length of the text, plus what the editor says, less the sample's truth."""
        texts = torch.tensor([float(len(text)) for text in bank.written("response")])
        truth = torch.tensor([float(facts["truth"]) for facts in bank.batch["metadata"]])
        brightness = bank.image("edited").flatten(1).mean(1)
        return sample_values(brightness + texts + bank.extras["level"] - truth, {})


class Reader(Loudness):
    name = "reader"
    needs_judge = needs_reader = True


class Nameless(PerSampleMetric):
    values = Loudness.values


class Dotted(Loudness):
    name = "my.loudness"


class Taken(Loudness):
    name = "success"


class Twin(Loudness):
    """Has the name of another."""


OWN = "tests.mmig.metrics.test_suite"


def test_a_metric_of_ones_own_sees_batch_images_texts_and_extras() -> None:
    suite, batch = MetricSuite(["l1_target", f"{OWN}.Loudness"]), random_batch(2)
    level = torch.tensor([10.0, 20.0])
    bank = suite.bank(batch, torch.zeros(2, 3, 64, 64), {"response": ["", "four"]}, {"level": level})
    assert suite.names == ["l1_target", "loudness"]
    assert suite.update(bank)["loudness"].values.tolist() == [10.5, 23.5]
    other = bank.with_edited(torch.ones(2, 3, 64, 64), None, {"level": 2 * level})
    assert suite.update(other)["loudness"].values.tolist() == [21.0, 40.0]
    assert suite.compute()["loudness"] == (10.5 + 23.5 + 21.0 + 40.0) / 4


def test_which_way_is_better_is_the_metrics_own() -> None:
    about = MetricSuite(["l1_input", "ssim_input", f"{OWN}.Loudness"]).describe()
    assert about == {
        "l1_input": {"higher_is_better": False},
        "ssim_input": {"higher_is_better": True},
        "loudness": {"higher_is_better": False, "class_path": f"{OWN}.Loudness"},
    }
    lower = {name for name, metric in build_metrics(METRICS).items() if not metric.higher_is_better}
    pairs = {f"{name}_{image}" for name in ("l1", "l2", "lpips") for image in ("input", "target")}
    assert lower == pairs | {"fid", "kid"}


def test_the_metric_of_the_documents_works(root: Path) -> None:
    text = (root / "docs/evaluation.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {}
    exec(text.split("```python\n")[1].split("```")[0], found)
    batch = random_batch(2)
    batch["has_target"][0] = False
    values = found["Brightness"]().values(MetricSuite(["l1_target"]).bank(batch, torch.zeros(2, 3, 64, 64)))
    assert values.reasons == ["no_target", None] and values.values[1] == 0.5


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["no.such.Metric"], "metrics: cannot load 'no.such.Metric' "),
        ([f"{OWN}.Quietness"], "metrics: cannot load '.*Quietness'"),
        (
            [f"{OWN}.random_batch"],
            "random_batch: expected a subclass of PerSampleMetric .* found <function random_batch",
        ),
        (["pathlib.Path"], "pathlib.Path: expected a subclass of PerSampleMetric"),
        ([f"{OWN}.Nameless"], "Nameless.name: expected letters, digits and _, found None"),
        ([f"{OWN}.Dotted"], "Dotted.name: expected letters, digits and _, found 'my.loudness'"),
        ([f"{OWN}.Taken"], "Taken.name: 'success' is a metric of mmig already"),
        ([f"{OWN}.Loudness", f"{OWN}.Twin"], "Loudness and .*Twin are both called 'loudness'"),
    ],
)
def test_a_class_path_that_is_no_metric_is_refused_in_one_line(names: list[str], message: str) -> None:
    with pytest.raises(UnknownMetricError, match=message) as refused:
        MetricSuite(names)
    assert "\n" not in str(refused.value)


def test_what_is_asked_for_twice_is_scored_once() -> None:
    assert MetricSuite(["l1_input", f"{OWN}.Loudness", "l1_input", f"{OWN}.Loudness"]).names == ["l1_input", "loudness"]


def test_own_metrics_that_cannot_be_computed_are_left_out() -> None:
    names = [f"{OWN}.Loudness", f"{OWN}.Reader", "clip_score"]
    assert computable((), names) == names[:1]
    assert computable({"clip", "judge", "reader"}, names) == names
