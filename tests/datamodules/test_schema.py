"""The sample and the batch."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from datamodules.schema import SchemaError, collate, take, validate


def _image(colour: tuple[int, int, int], size: int = 8) -> Image.Image:
    return Image.new("RGB", (size, size), colour)


def test_images_are_in_minus_one_to_one_and_masks_in_zero_one() -> None:
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    batch = collate([{"key": "a", "target": _image((0, 255, 255)), "target_mask": mask, "instruction": "x"}])
    assert batch["target"][0, :, 0, 0].tolist() == [-1.0, 1.0, 1.0]
    assert batch["target_mask"].unique().tolist() == [0.0, 1.0]
    assert batch["target_mask"].shape == (1, 1, 8, 8) and batch["target_mask"].sum() == 32


def test_an_absent_field_is_zeros_and_says_so() -> None:
    batch = collate([{"key": "a", "target": _image((9, 9, 9)), "response": "r"}, {"key": "b", "instruction": "i"}])
    assert batch["has_target"].tolist() == [True, False] and batch["has_source"].tolist() == [False, False]
    assert batch["target"][1].abs().sum() == 0 and batch["source"].shape == (2, 3, 8, 8)
    assert batch["instruction"] == ["", "i"] and batch["has_response"].tolist() == [True, False]
    assert batch["position"].dtype == torch.int64 and batch["faults"] == []


def test_concept_masks_are_padded_to_the_longest_sample() -> None:
    mask = Image.new("L", (8, 8), 255)
    one = {"key": "a", "target": _image((0, 0, 0)), "concepts": [{"phrase": "p"}, {"phrase": "q", "mask": mask}]}
    batch = collate([one, {"key": "b", "response": "r"}])
    assert batch["concepts"] == [["p", "q"], []]
    assert batch["has_concept_masks"].tolist() == [[False, True], [False, False]]
    assert batch["concept_masks"].shape == (2, 2, 8, 8) and batch["concept_masks"][0, 1].min() == 1


def test_a_batch_of_texts_needs_a_size() -> None:
    assert collate([{"key": "a", "response": "r"}], size=(4, 6))["source"].shape == (1, 3, 4, 6)
    with pytest.raises(SchemaError, match="give `size`"):
        collate([{"key": "a", "response": "r"}])


def test_images_of_another_size_are_refused_by_name() -> None:
    with pytest.raises(SchemaError, match="sample 'b', field 'target': expected 8x8 pixels as the batch, found 4x4"):
        collate([{"key": "a", "target": _image((0, 0, 0))}, {"key": "b", "target": _image((0, 0, 0), 4)}])


def test_samples_are_taken_in_the_order_asked_for_and_what_is_not_of_a_sample_stays_whole() -> None:
    fault = {"reason": "json", "shard": "0.tar", "key": "z", "detail": "x"}
    samples = [{"key": key, "target": _image((row, 0, 0)), "instruction": key * 2} for row, key in enumerate("abc")]
    batch = {**collate(samples, faults=[fault] * 3), "scale": torch.tensor(2.0), "note": "abc", "sizes": [8]}
    taken = take(batch, [2, 0])
    assert taken["key"] == ["c", "a"] and taken["instruction"] == ["cc", "aa"] and taken["position"].tolist() == [2, 0]
    assert torch.equal(taken["target"], batch["target"][[2, 0]]) and taken["concept_masks"].shape == (2, 0, 8, 8)
    assert taken["faults"] == [fault] * 3 and taken["scale"] == 2 and taken["note"] == "abc" and taken["sizes"] == [8]
    none = take(batch, [])
    assert none["key"] == [] and none["target"].shape == (0, 3, 8, 8) and none["has_target"].dtype == torch.bool


def test_a_slice_of_a_batch_is_a_view() -> None:
    batch = collate([{"key": key, "instruction": key} for key in "abc"], size=(8, 8))
    part = take(batch, slice(1, 9))
    assert part["key"] == ["b", "c"] and part["has_instruction"].tolist() == [True, True]
    part["source"][0] = 1
    assert batch["source"][1].min() == 1 and batch["source"][0].max() == 0


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"key": "a.b", "instruction": "x"}, "without '.'"),
        ({"key": "a"}, "at least one text or image"),
        ({"key": "a", "instruction": 3}, "field 'instruction': expected str, found int"),
        ({"key": "a", "picture": b""}, "unknown field 'picture'"),
        ({"key": "a", "instruction": "x", "concepts": [{}]}, r"concepts\[0\].phrase"),
        ({"key": "a", "instruction": "x", "metadata": "{}"}, "field 'metadata': expected dict, found str"),
    ],
)
def test_a_broken_sample_is_named(sample: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        validate(sample)
