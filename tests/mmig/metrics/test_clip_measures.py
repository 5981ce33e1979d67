"""Which images and texts the CLIP metrics compare, against cosines taken by hand."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.multimodal import clip_score

from mmig.evaluation.rows import SampleRow
from mmig.evaluation.summary import summarise
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.suite import MetricSuite
from tests.mmig.metrics.support import random_batch, random_images, with_references


def unit(images: torch.Tensor) -> torch.Tensor:
    return (images + 1) / 2


def by_hand(first: torch.Tensor, second: torch.Tensor) -> np.ndarray:
    first, second = first.double().numpy(), second.double().numpy()
    return (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)


def test_torchmetrics_score_is_cut_after_averaging_and_hessels_before(encoder: ClipEncoder) -> None:
    suite = MetricSuite(["clip_score", "clip_score_torchmetrics"], encoder)
    batch, edited = random_batch(6), random_images(6)
    values = suite.update(suite.bank(batch, edited))
    cosines = by_hand(encoder.encode_images(unit(edited)), encoder.encode_texts(batch["target_caption"]).embeddings)
    np.testing.assert_allclose(values["clip_score_torchmetrics"].values, 100 * cosines, atol=1e-4)
    np.testing.assert_allclose(values["clip_score"].values, 2.5 * np.maximum(cosines, 0), atol=1e-5)
    assert suite.compute()["clip_score_torchmetrics"] == pytest.approx(max(100 * cosines.mean(), 0), abs=1e-4)


@pytest.mark.parametrize(("cosines", "expected"), [([-0.3, 0.1], 0.0), ([-0.1, 0.3], 10.0)])
def test_the_cut_of_torchmetrics_score_is_that_of_torchmetrics(cosines: list[float], expected: float) -> None:
    metric = MetricSuite(["clip_score_torchmetrics"], object()).metrics["clip_score_torchmetrics"]
    metric.update(torch.tensor(cosines, dtype=torch.float64) * 100)
    assert float(metric.compute()) == pytest.approx(expected)

    class Model:  # what torchmetrics asks of a CLIP: features whose cosines are those above
        config = None

        def get_image_features(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines])

        def get_text_features(self, *_: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]] * len(cosines))

        def to(self, device: torch.device) -> "Model":
            return self

    def processor(text: list[str] | None = None, images: list | None = None, **_: object) -> dict[str, torch.Tensor]:
        return {name: torch.zeros(2, 1) for name in ("pixel_values", "input_ids", "attention_mask")}

    pictures = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    theirs = clip_score(pictures, ["a", "b"], model_name_or_path=lambda: (Model(), processor))
    assert float(theirs) == pytest.approx(expected, abs=1e-4)


def test_a_floor_cuts_means_and_bounds_and_no_sample() -> None:
    rows = [SampleRow(f"s{row}", 0, "add", {"x": value}) for row, value in enumerate((-3.0, -2.0, 1.0))]
    free, cut = summarise(rows)["x"], summarise(rows, floors={"x": 0.0})["x"]
    assert free["value"] < 0 and free["low"] < 0 < free["high"]
    assert (cut["value"], cut["low"], cut["high"], cut["n"]) == (0.0, 0.0, free["high"], 3)
    assert (cut["per_edit_type"]["add"]["value"], rows[0].values["x"]) == (0.0, -3.0)


def test_references_are_attached_subjects_and_styles_and_their_cosines_are_averaged(encoder: ClipEncoder) -> None:
    batch = with_references(random_batch(4), [["subject", "style"], ["base", "reference"], [], ["answer", "style"]])
    suite, edited = MetricSuite(["clip_image_similarity_reference"], encoder), random_images(4)
    values = suite.update(suite.bank(batch, edited))["clip_image_similarity_reference"]
    assert values.reasons == [None, "no_reference", "no_reference", None]
    of_edited = encoder.encode_images(unit(edited))
    pictures = encoder.encode_images(unit(batch["attachment_images"].flatten(0, 1))).unflatten(0, (4, 2))
    expected = by_hand(of_edited[:1].expand(2, -1), pictures[0]).mean(), by_hand(of_edited[3:], pictures[3, 1:])[0]
    np.testing.assert_allclose(values.values[[0, 3]], expected, atol=1e-5)


def test_without_attachments_there_is_no_reference(encoder: ClipEncoder) -> None:
    suite = MetricSuite(["clip_image_similarity_reference"], encoder)
    values = suite.update(suite.bank(random_batch(2), random_images(2)))["clip_image_similarity_reference"]
    assert values.reasons == ["no_reference"] * 2


def test_the_expressive_text_is_held_against_goal_and_input_whatever_was_edited(encoder: ClipEncoder) -> None:
    names = ["clip_expressive_similarity", "clip_expressive_similarity_input"]
    suite, batch = MetricSuite(names, encoder), random_batch(3)
    batch["expressive"][1], batch["has_source"][2] = "", False
    values = suite.update(suite.bank(batch, random_images(3)))
    texts = encoder.encode_texts(batch["expressive"]).embeddings
    for name, image in zip(names, ("target", "source"), strict=True):
        expected = by_hand(encoder.encode_images(unit(batch[image])), texts)
        np.testing.assert_allclose(values[name].values[0], expected[0], atol=1e-5)
    assert values[names[0]].reasons == [None, "no_expressive", None]
    assert values[names[1]].reasons == [None, "no_expressive", "no_source"]


def test_what_the_editor_wrote_is_held_against_goal_and_input_and_is_new_with_each_seed(encoder: ClipEncoder) -> None:
    names = ["clip_written_similarity", "clip_written_similarity_input"]
    suite, batch = MetricSuite(names, encoder), random_batch(3)
    bank = suite.bank(batch, random_images(3), {"response": ["a red ball", "", "it " * 300]})
    values = suite.update(bank)
    texts = encoder.encode_texts(["a red ball"]).embeddings
    for name, image in zip(names, ("target", "source"), strict=True):
        expected = by_hand(encoder.encode_images(unit(batch[image][:1])), texts)
        np.testing.assert_allclose(values[name].values[0], expected[0], atol=1e-5)
        assert values[name].reasons == [None, "no_text", None]
    assert bank.truncated()["written response"].tolist() == [False, False, True]
    other = suite.update(bank.with_edited(random_images(3), {"response": ["two blue dots", "", "it"]}))
    assert other[names[0]].values[0] != values[names[0]].values[0]
