"""Every method trains as it did: each term of each step, the terms of a validation, and edits, against a file."""

import json

import pytest

from tests.golden.curves import FILE, METHODS, NUM_STEPS, compute

OTHER_PROCESSORS = 5e-4
"""Relative; 1.1e-4 was seen between two of them. On one machine `bench/golden.py` compares bit for bit."""
GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_method_has_its_curves() -> None:
    assert GOLDEN.keys() == METHODS.keys()
    assert {len(values) for curves in GOLDEN.values() for name, values in curves.items() if "train/" in name} == {
        NUM_STEPS
    }


@pytest.mark.parametrize("method", METHODS)
def test_the_curves_are_the_golden_ones(method: str) -> None:
    """A refactoring must not change them; a deliberate change rewrites the file (`python -m tests.golden.curves`)."""
    found = compute([method])[method]
    assert found.keys() == GOLDEN[method].keys()
    for name, values in found.items():
        assert values == pytest.approx(GOLDEN[method][name], rel=OTHER_PROCESSORS, abs=1e-7), f"{method} {name}"
