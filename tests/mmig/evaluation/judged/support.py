"""Items without files and rows without a judge, for aggregation alone."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmig.evaluation.judged.items import Item

Rows = list[dict[str, Any]]


def item(key: str, kind: str, groups: Mapping[str, str] | None = None, **about: Any) -> Item:
    """An item whose pictures are nowhere."""
    return Item(key, kind, f"edit {key}", (Path(f"{key}.jpg"),), Path(f"{key}.png"), groups or {}, about)


def row(key: str, question: str, reply: str | None, failure: str = "", number: int = 0) -> dict[str, Any]:
    """A row of judge.jsonl with what counts."""
    return {"item": key, "question": question, "pass": number, "reply": reply, "failure": failure}


def vie(scores: Iterable[float]) -> str:
    """A reply in the form that GEdit-Bench's judge was asked for."""
    return json.dumps({"score": list(scores), "reasoning": "as asked"})


def lines(*scores: float) -> str:
    """A reply in ImgEdit's form."""
    named = zip(("Prompt Compliance", "Visual Seamlessness", "Physical & Detail Fidelity"), scores, strict=False)
    return "\n".join(["Brief reasoning: fine", *(f"{name}: {score}" for name, score in named)])
