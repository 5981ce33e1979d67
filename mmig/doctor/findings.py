"""What is said of a machine: findings, each with what to do, as lines or as JSON."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["ok", "warning", "wrong"]
"""Of what is found: as it should be; something will be slow, missing or surprising; nothing can run as it is."""
RANKED: tuple[State, ...] = ("ok", "warning", "wrong")
WORDS: dict[State, str] = {"ok": "ok", "warning": "look", "wrong": "WRONG"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        found: how it is, in words.
        state: how well that is.
        advice: what to do; "" where nothing has to be done.
    """

    name: str
    found: str
    state: State = "ok"
    advice: str = ""

    def __str__(self) -> str:
        """One line."""
        told = " ".join(f"{self.found}; {self.advice}".removesuffix("; ").split())
        return f"{WORDS[self.state]:<6} {self.name:<9} {told}"


def worst(findings: Sequence[Finding]) -> State:
    """The worst state among findings."""
    return max((finding.state for finding in findings), key=RANKED.index, default="ok")


def as_json(findings: Sequence[Finding]) -> str:
    """All findings for machines: {"state": ..., "findings": [{"name", "found", "state", "advice"}]}."""
    content = {"state": worst(findings), "findings": [asdict(finding) for finding in findings]}
    return json.dumps(content, indent=2, ensure_ascii=False)


def pip(*arguments: str) -> str:
    """A command of pip for the interpreter that runs."""
    return f"{sys.executable} -m pip install {' '.join(arguments)}"
