"""Why an edit failed, as far as its row says."""

from collections import Counter
from collections.abc import Sequence

from mmig.evaluation.rows import SampleRow

DONE = "done"
CAUSES = {
    DONE: "edited as asked, and the rest as it was",
    "text wrong": "failed, and the editor's own text did not describe the goal",
    "not edited": "no edit, and all as it was",
    "edited elsewhere": "not the edit that was asked for, and something else changed",
    "rest spoilt": "edited as asked, and something else changed",
}
"""Name of every outcome and what it means; each edit has the first one that applies, so that they sum to n."""
HALF = 0.5
"""A judge's value counts as yes from here on."""


def cause_of(row: SampleRow) -> str | None:
    """The outcome of one edit, a name in `CAUSES`; None where no judge knows success and preservation."""
    success, preservation = (row.values.get(name) for name in ("success", "preservation"))
    if success is None or preservation is None:
        return None
    edited, kept = success >= HALF, preservation >= HALF
    if edited and kept:
        return DONE
    text = row.values.get("response_accuracy")
    if text is not None and text < HALF:
        return "text wrong"
    if edited:
        return "rest spoilt"
    return "not edited" if kept else "edited elsewhere"


def count_causes(rows: Sequence[SampleRow]) -> dict[str, int]:
    """How many edits had each outcome, and "n", how many were judged; {} where none was."""
    counts = Counter(cause for row in rows if (cause := cause_of(row)) is not None)
    if not counts:
        return {}
    return {"n": counts.total(), **{name: counts[name] for name in CAUSES}}


def causes_by_type(rows: Sequence[SampleRow]) -> dict[str, dict[str, int]]:
    """`count_causes` of each edit type, "" left out."""
    types = sorted({row.edit_type for row in rows if row.edit_type})
    counted = {name: count_causes([row for row in rows if row.edit_type == name]) for name in types}
    return {name: counts for name, counts in counted.items() if counts}
