"""The page of claims: docs/claims.yaml, and what the evidence that is committed says of each."""

from experiments.claims import LATE, cells, is_late, outcomes_of
from experiments.site.links import ROOT
from mmig.evaluation.claims import Outcome

FILE = ROOT / "docs/claims.yaml"
EVIDENCE = ROOT / "docs/evidence"
MARK = "<!-- claims -->"
"""Where in docs/claims.md the table goes."""


def row(outcome: Outcome) -> str:
    """A line of a table: with verdict and numbers where something was measured."""
    said = f"| {outcome.claim.name} | {outcome.claim.says} (`{outcome.claim.measure}`)"
    if outcome.difference is None:
        return f"{said} |"
    note = f" ({LATE})" if is_late(outcome.claim, FILE, EVIDENCE) else ""
    return f"{said}{note} | **{outcome.verdict}** | {' | '.join(cells(outcome.difference, outcome.by_seed))} |"


def tables() -> str:
    """All claims with their verdicts, as `python -m experiments.claims --root docs/evidence` prints them."""
    outcomes = outcomes_of(FILE, EVIDENCE)
    judged = [row(outcome) for outcome in outcomes if outcome.difference is not None]
    waiting = [row(outcome) for outcome in outcomes if outcome.difference is None]
    head = "| claim | says (measure) | verdict | difference, corrected interval | by training seed | samples |\n"
    return "\n".join(
        [
            f"## Measured: {len(judged)} of {len(outcomes)}\n\n{head}|---|---|---|---|---|---|",
            *judged,
            f"\n## Not measured yet: {len(waiting)}\n\n| claim | says (measure) |\n|---|---|",
            *waiting,
        ]
    )
