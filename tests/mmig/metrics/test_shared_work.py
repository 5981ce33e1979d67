"""What a batch is cut into changes no value, and what several metrics and seeds read is computed once."""

from typing import Any

import numpy as np
import pytest
from torch import Tensor

from datamodules.schema import take
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.suite import MetricSuite, computable
from tests.mmig.metrics.support import EvenJudge, random_batch, random_images, with_references

NAMES = computable({"clip", "judge", "reader"})
"""The metrics of further encoders have such tests of their own."""


def test_results_do_not_depend_on_the_batch_size(encoder: ClipEncoder) -> None:
    batch = with_references(random_batch(8), [["subject"], [], ["base", "style"], ["style"] * 3] * 2)
    edited, written = random_images(8), [f"a red ball and {row}" for row in range(8)]
    results = []
    for size in (1, 3, 8):
        suite = MetricSuite(NAMES, encoder, EvenJudge())
        for start in range(0, 8, size):
            rows = slice(start, start + size)
            suite.update(
                suite.bank(take(batch, rows), edited[rows], {"response": written[rows], "caption": written[rows]})
            )
        results.append(suite.compute())
    for other in results[1:]:
        np.testing.assert_allclose(list(other.values()), list(results[0].values()), rtol=1e-5, atol=2e-6)


def test_each_image_and_text_is_encoded_once(encoder: ClipEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {"images": 0, "texts": 0}
    encode_images, encode_texts = encoder.encode_images, encoder.encode_texts

    def count_images(images: Tensor) -> Tensor:
        seen["images"] += len(images)
        return encode_images(images)

    def count_texts(texts: list[str], are_captions: bool) -> Any:
        seen["texts"] += len(texts)
        return encode_texts(texts, are_captions)

    monkeypatch.setattr(encoder, "encode_images", count_images)
    monkeypatch.setattr(encoder, "encode_texts", count_texts)
    suite = MetricSuite(NAMES, encoder, judge := EvenJudge())
    batch, written = (
        with_references(random_batch(4), [["subject", "style"], [], ["style"], []]),
        {"response": ["it"] * 4},
    )
    bank = suite.bank(batch, random_images(4), written)
    suite.update(bank)
    assert (seen, judge.num_calls) == ({"images": 15, "texts": 20}, 4)
    # another seed: only the edited images and what was written are new
    suite.update(bank.with_edited(random_images(4, seed=9), written))
    assert (seen, judge.num_calls) == ({"images": 19, "texts": 24}, 8)
