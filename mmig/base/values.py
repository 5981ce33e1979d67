"""Values of a dataclass of settings, checked in one place wherever they come from: Python, a config, a command line."""

import math
from collections.abc import Mapping
from dataclasses import fields
from numbers import Integral, Real
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Limits = tuple[float, float]
USUAL_LIMITS: Mapping[str, Limits] = {"num_steps": (1, math.inf), "strength": (0, 1)}
"""What settings of these names mean everywhere; both ends belong to it."""


def check_values(settings: Any, section: str, **limits: Limits) -> None:
    """Refuse a value of another kind than its field's, a number that is none (NaN, infinite), or one out of range.

    Fields of other kinds than numbers, flags, words (`str` or Literal) and None in place of one of them are left alone.

    Args:
        settings: a dataclass, built.
        section: where it stands in a configuration, for messages.
        limits: least and largest value by field, beside `USUAL_LIMITS`.

    Raises:
        ValueError: naming the field, what is expected and what was found.
    """
    hints, limits = get_type_hints(type(settings)), {**USUAL_LIMITS, **limits}
    for item in fields(settings):
        value, kind = getattr(settings, item.name), hints[item.name]
        kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
        low, high = limits.get(item.name, (-math.inf, math.inf))
        expected = [words for kind in kinds if (words := _in_words(kind, low, high))]
        if len(expected) == len(kinds) and not any(_fits(kind, value, low, high) for kind in kinds):
            raise ValueError(f"{section}.{item.name}: expected {' or '.join(expected)}, found {value!r}")


def _fits(kind: Any, value: Any, low: float, high: float) -> bool:
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if kind in (int, float):
        number = Integral if kind is int else Real
        return isinstance(value, number) and not isinstance(value, bool) and _is_finite(value) and low <= value <= high
    return value is None if kind is type(None) else isinstance(value, kind)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Integral) or math.isfinite(value)


def _in_words(kind: Any, low: float, high: float) -> str:
    """What a kind of value is called; "" for one that is not checked."""
    if get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        return f"one of {', '.join(choices)}" if len(choices) > 1 else choices[0]
    if kind in (int, float):
        number = "a whole number" if kind is int else "a finite number"
        if math.isfinite(low) and math.isfinite(high):
            return f"{number} in [{low:g}, {high:g}]"
        return number + (f" of at least {low:g}" if math.isfinite(low) else "")
    return {bool: "true or false", str: "a text", type(None): "none"}.get(kind, "")
