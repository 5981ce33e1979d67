"""The page of claims: docs/claims.yaml, and what the evidence that is committed says of each."""

from experiments.claims import LATE, cells, is_late, measured
from experiments.site.links import ROOT
from mmig.evaluation.claims import Claim, Outcome, judge_claims, read_claims

FILE = ROOT / "docs/claims.yaml"
EVIDENCE = ROOT / "docs/evidence"
MARK = "<!-- claims -->"
"""Where in docs/claims.md the table goes."""


def row(outcome: Outcome, late: bool) -> str:
    """A line of the table."""
    numbers = " | ".join(cells(outcome))
    verdict = f"**{outcome.verdict}**" if outcome.verdict != "not measured" else outcome.verdict
    note = f" ({LATE})" if late else ""
    return f"| {outcome.claim.name} | {outcome.claim.says} (`{outcome.claim.measure}`){note} | {verdict} | {numbers} |"


def table() -> str:
    """All claims with their verdicts, as `python -m experiments.claims --root docs/evidence` prints them."""
    claims: list[Claim] = read_claims(FILE)
    outcomes = judge_claims(claims, {claim.name: measured(claim, EVIDENCE) for claim in claims})
    rows = [row(outcome, is_late(outcome.claim, FILE, EVIDENCE)) for outcome in outcomes]
    head = "| claim | says (measure) | verdict | difference, corrected interval | by training seed | samples |\n"
    return "\n".join([f"{head}|---|---|---|---|---|---|", *rows])
