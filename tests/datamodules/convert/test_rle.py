"""Run-length encoded masks in both of COCO's forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datamodules.convert.rle import decode_rle
from datamodules.faults import BadSample


def test_runs_go_down_the_columns_and_begin_with_zeros() -> None:
    mask = np.asarray(decode_rle({"size": [2, 3], "counts": [1, 2, 3]}))
    assert (mask // 255).tolist() == [[0, 1, 0], [1, 0, 0]]


def test_packed_runs_are_read_as_cocos_tools_write_them() -> None:
    """Packed by pycocotools 2.0 from this mask."""
    rows = ("0111000", "0000101", "0100111", "1000100", "0001100", "1100101")
    mask = np.asarray(decode_rle({"size": [6, 7], "counts": "31110O113ON0O40L21NO"}))
    assert ["".join(map(str, row)) for row in (mask // 255).tolist()] == list(rows)


def test_long_packed_runs_take_several_characters() -> None:
    mask = np.asarray(decode_rle({"size": [40, 60], "counts": f"a2V12{'0' * 53}WT1kNnlN"}))
    expected = np.zeros((40, 60), np.uint8)
    expected[1:39, 2:30] = expected[0, -1] = 255
    assert np.array_equal(mask, expected)


@pytest.mark.parametrize(
    "mask",
    [
        None,
        [],
        {"size": [2, 2]},
        {"size": [2, 2], "counts": [1, 2]},
        {"size": [2, 2], "counts": [5]},
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [0, 0], "counts": []},
        {"size": [10**6, 10**6], "counts": [10**12]},
        {"size": [2, 2], "counts": "\x00"},
        {"size": [2, 2], "counts": "P"},
        {"size": ["a", 2], "counts": [4]},
        {"size": [float("inf"), 2], "counts": [4]},  # JSON's 1e999
        {"size": [2, 2], "counts": [float("inf")]},
        {
            "size": [2, 2],
            "counts": "o" * 10_000_000,
        },  # one number of 50 million bits: hours
    ],
)
def test_what_is_no_mask_is_a_bad_sample(mask: Any) -> None:
    with pytest.raises(BadSample) as caught:
        decode_rle(mask)
    assert caught.value.reason == "mask"
