"""Formulas: blocks ```math as outlines, which need no script and no font; code hosts draw the same blocks."""

from html import escape
from typing import Any

import ziamath

SIZE = 20.0
ziamath.config.math.color = "currentColor"


def fence(source: str, language: str, css_class: str, options: dict[str, Any], md: Any, **others: Any) -> str:
    """HTML of a block ```math, as pymdownx.superfences asks for it."""
    formula = source.strip()
    drawn = ziamath.Latex(formula, size=SIZE).svg()
    return f'<div class="formula" role="img" aria-label="{escape(formula)}">{drawn}</div>'
