"""Values of settings: of their kind, finite and in range, or refused in one line."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest

from mmig.base.values import check_values


@dataclass(frozen=True)
class Settings:
    num_steps: int = 5
    scale: float = 7.5
    strength: float = 1
    weight: float = 0.0
    seed: int | None = None
    text: Literal["a", "b"] | None = None
    name: str = "x"
    is_fast: bool = False
    sizes: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        check_values(self, "sampling", weight=(0, math.inf))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_steps", 0, "a whole number of at least 1"),
        ("num_steps", -3, "a whole number of at least 1"),
        ("num_steps", 2.0, "a whole number of at least 1"),
        ("num_steps", True, "a whole number of at least 1"),
        ("num_steps", None, "a whole number of at least 1"),
        ("scale", math.nan, "a finite number"),
        ("scale", -math.inf, "a finite number"),
        ("scale", "7", "a finite number"),
        ("strength", 1.5, r"a finite number in \[0, 1\]"),
        ("strength", math.nan, r"a finite number in \[0, 1\]"),
        ("weight", -0.1, "a finite number of at least 0"),
        ("seed", 1.5, "a whole number or none"),
        ("text", "c", "one of a, b or none"),
        ("name", 3, "a text"),
        ("is_fast", 1, "true or false"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, value: Any, expected: str) -> None:
    with pytest.raises(ValueError, match=rf"^sampling\.{name}: expected {expected}, found "):
        replace(Settings(), **{name: value})


def test_what_can_be_is_taken() -> None:
    Settings(num_steps=1, scale=-2, strength=0, seed=3, text="b", is_fast=True)
    Settings(num_steps=np.int64(2), scale=np.float32(1.5), sizes=("not", "looked at"))  # type: ignore[arg-type]
