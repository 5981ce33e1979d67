"""Retrieval and judging, against counts made by hand."""

import pytest
import torch

from experiments.tiny_backbones import score, scoring


def test_retrieval_counts_nearest_captions():
    texts = torch.eye(4)
    images = texts.clone()
    images[3] = texts[0]  # this image is nearest to the first caption
    found = score.retrieval(images, texts, list("abcd"))
    assert found["image_to_text"] == 0.75
    assert found["images"] == 4


def test_retrieval_leaves_repeated_captions_out():
    features = torch.eye(3)[[0, 1, 1, 2]]
    found = score.retrieval(features, features, ["a", "b", "b", "c"])
    assert (found["images"], found["image_to_text"], found["text_to_image"]) == (3, 1, 1)


def test_retrieval_uses_groups_of_a_hundred():
    features = torch.randn(250, 64)
    found = score.retrieval(features, features, [str(index) for index in range(250)])
    assert (found["captions_a_group"], found["images"]) == (100, 200)


def test_a_judge_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match=r"cannot load 'datamodules.schema.nobody'"):
        scoring.load_function("datamodules.schema.nobody")
