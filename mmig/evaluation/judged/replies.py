"""Strict readers of judges' replies: the scores that a reply surely gives, or why it gives none.

What they take is wider than what the benchmarks' own scripts take (Markdown, "/5", a full stop) and never a guess: as
many scores as were asked for, each in its range.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

UNREADABLE = "unreadable reply"
OUT_OF_RANGE = "score out of range"
NO_REPLY = "no reply"
NO_PICTURE = "no edited picture"
BROKEN_PICTURE = "unreadable picture"
NO_SOURCE = "no source picture"
_NUMBER = r"-?\d+(?:\.\d+)?"
_LIST = re.compile(rf"\[\s*{_NUMBER}(?:\s*,\s*{_NUMBER})*\s*\]")
_LINE = re.compile(
    rf"^[\s>*#\-\d.)]*(?P<label>[A-Za-z][^:：\n]*?)[\s*]*[:：][\s*]*(?P<score>{_NUMBER})\**"
    r"(?:\s*/\s*\d+|\s+out\s+of\s+\d+)?[\s*]*(?:\.|\([^)]*\)\.?)?[\s*]*$"
)
_FINAL = re.compile(rf"final\s+scores?\W*?[:：]?[\s*]*(?P<score>{_NUMBER})", re.IGNORECASE)
_LAST_SCORE = re.compile(rf"\bscore[\s*]*[:：][\s*]*(?P<score>{_NUMBER})(?![\d-])", re.IGNORECASE)


@dataclass(frozen=True)
class Reading:
    """What a reply gives.

    Attributes:
        scores: as many as were asked for; None where they cannot be read.
        failure: why there are none, "" where there are.
    """

    scores: tuple[float, ...] | None
    failure: str = ""


def score_list(reply: str, count: int, low: float, high: float) -> Reading:
    """The value of "score" in the reply's JSON, or its only list of numbers: VIEScore's and EditScore's form."""
    try:
        found = json.loads(reply[reply.index("{") : reply.rindex("}") + 1])["score"]
        listed = found if isinstance(found, list) else [found]
        if not all(isinstance(score, int | float) and not isinstance(score, bool) for score in listed):
            return Reading(None, UNREADABLE)
        return _checked([float(score) for score in listed], count, low, high)
    except (ValueError, KeyError, TypeError):  # no braces, or quotation marks amid its reasons
        lists = set(_LIST.findall(reply))
        if len(lists) != 1:
            return Reading(None, UNREADABLE)
        return _checked([float(score) for score in json.loads(lists.pop())], count, low, high)


def score_lines(reply: str, count: int, low: float, high: float) -> Reading:
    """Numbers of the lines "LABEL: NUMBER", each label once: ImgEdit's form, with or without Markdown."""
    matches = [match for line in reply.splitlines() if (match := _LINE.match(line))]
    labels = [match["label"].strip(" *").lower() for match in matches]
    if len(set(labels)) < len(labels):
        return Reading(None, UNREADABLE)
    return _checked([float(match["score"]) for match in matches], count, low, high)


def last_score(reply: str, low: float, high: float) -> Reading:
    """The number behind the last "Score:", anywhere in the reply: the form of ImgEdit's UGE."""
    matches = _LAST_SCORE.findall(reply)
    if not matches:
        return score_lines(reply, 1, low, high)
    return _checked([float(matches[-1])], 1, low, high)


def named_scores(reply: str, names: Sequence[str], low: float, high: float) -> Reading:
    """The numbers behind names such as "quality_score", in this order: KRIS-Bench's form, though its JSON be broken.

    A name that comes twice must have one number.
    """
    scores = []
    for name in names:
        pattern = rf"{re.escape(name).replace('_', '[_ ]')}[\"'*\s]*[:：][\"'*\s]*({_NUMBER})(?![\d-])"
        found = set(re.findall(pattern, reply, re.IGNORECASE))
        if len(found) != 1:
            return Reading(None, UNREADABLE)
        scores.append(float(found.pop()))
    return _checked(scores, len(names), low, high)


def final_score(reply: str, low: float, high: float) -> Reading:
    """The number behind the last "Final Score": RISEBench's form."""
    matches = _FINAL.findall(reply)
    if not matches:
        return Reading(None, UNREADABLE)
    return _checked([float(matches[-1])], 1, low, high)


def _checked(scores: Sequence[float], count: int, low: float, high: float) -> Reading:
    if len(scores) != count:
        return Reading(None, UNREADABLE)
    if not all(low <= score <= high for score in scores):
        return Reading(None, OUT_OF_RANGE)
    return Reading(tuple(scores))
