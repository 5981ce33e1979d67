"""Formulas: blocks ```math as MathML, which browsers draw without a script; code hosts draw the same blocks."""

from typing import Any

from latex2mathml.converter import convert


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **others: Any) -> str:
    """HTML of a block ```math, as pymdownx.superfences asks for it."""
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'
