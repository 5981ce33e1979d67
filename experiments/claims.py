"""What the runs say about every claim of docs/claims.yaml.

    python -m experiments.claims [--file docs/claims.yaml] [--root .] [--out claims.json]

A claim is committed before its runs start; one that was not in the file at the commit of its evaluations, as it stands
there now, is marked. See mmig/evaluation/claims.py for what a verdict means.
"""

import argparse
import contextlib
import json
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.files import write_json
from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.claims import Claim, Outcome, as_dict, claim_of, gains, judge_claims, read_arm, read_claims

LATE = "not in the file when its evaluations were made"


def outcomes_of(file: Path, root: Path) -> list[Outcome]:
    """Every claim of a file, judged on the evaluations below a folder; errors as `read_claims`."""
    claims = read_claims(file)
    return judge_claims(claims, {claim.name: measured(claim, root) for claim in claims})


def measured(claim: Claim, root: Path) -> NDArray[np.float64] | str:
    """Gains of a claim, or why there are none."""
    arms = [read_arm(claim, pattern, root) for pattern in (claim.first, claim.second)]
    data = claim.data, claim.second_data or claim.data
    for pattern, of_arm, scores in zip((claim.first, claim.second), data, arms, strict=True):
        if scores is None:
            return f"no evaluation in {pattern} of every training seed"
        if wrong := other_data(claim, pattern, of_arm, root):
            return wrong
    first, second = ([precision(found) for found in facts(claim, arm, root)] for arm in (claim.first, claim.second))
    if first != second:
        return f"evaluated in {', '.join(first)} and in {', '.join(second)}; evaluate both arms of a seed alike"
    try:
        return gains(claim, *arms)  # type: ignore[arg-type]
    except ValueError as error:
        return str(error)


def facts(claim: Claim, pattern: str, root: Path) -> list[dict[str, Any]]:
    """metrics.json of an arm's evaluations."""
    folders = [root / pattern.replace("{seed}", str(seed)) for seed in claim.seeds]
    files = [folder / "metrics.json" for folder in folders]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.is_file()]


def precision(found: dict[str, Any]) -> str:
    """Of an evaluation; before there was a choice it was single."""
    return found.get("precision", "32-true")


def other_data(claim: Claim, pattern: str, data: str, root: Path) -> str:
    """In what an arm's evaluations are not of the claim's data; "" where they are."""
    for found in facts(claim, pattern, root):
        for name, expected, actual in (
            ("data", data, found["data"]["config"]),
            ("split", claim.split, found["split"]),
        ):
            if actual != expected:
                return f"{pattern}: evaluated on the {name} {actual}, claimed is {expected}"
    return ""


def is_late(claim: Claim, file: Path, root: Path) -> bool:
    """Whether the file did not hold the claim as it is now at the commit of one of its evaluations."""
    commits = {
        str(found.get("commit") or "").partition("+")[0]
        for pattern in (claim.first, claim.second)
        for found in facts(claim, pattern, root)
    }
    return any(claim not in claims_at(commit, file) for commit in commits)


@cache
def claims_at(commit: str, file: Path) -> list[Claim]:
    """The claims of the file at a commit of its repository; none where it was not there."""
    place = file.resolve()
    command = ["git", "show", f"{commit}:./{place.name}"]
    shown = subprocess.run(command, cwd=place.parent, capture_output=True, text=True, check=False)
    if shown.returncode != 0:
        return []
    found = []
    for entry in (yaml.safe_load(shown.stdout) or {}).get("claims") or []:
        with contextlib.suppress(ValueError):  # a claim of another form is not this one
            found.append(claim_of(entry))
    return found


def cells(found: Interval, by_seed: Sequence[float]) -> tuple[str, str, str]:
    """A measured difference with its interval, by training seed, and samples."""
    return found.told("+.3f"), ", ".join(f"{value:+.3f}" for value in by_seed), str(found.n)


def claims_table(outcomes: list[Outcome], late: set[str]) -> Table:
    """One row a claim that was measured."""
    table = Table(title="claims", title_justify="left", title_style="bold")
    for heading in ("claim", "verdict", "difference \\[corrected],\nby training seed", "n"):
        table.add_column(heading, justify="left" if heading in ("claim", "verdict") else "right")
    for outcome in outcomes:
        if outcome.difference is not None:
            notes = [outcome.note, LATE if outcome.claim.name in late else ""]
            said = [f"{outcome.claim.name}: {outcome.claim.says}", *(f"({note})" for note in notes if note)]
            difference, by_seed, count = cells(outcome.difference, outcome.by_seed)
            table.add_row("\n".join(said), outcome.verdict, escape(f"{difference}\n{by_seed}"), count)
    return table


def waiting(outcomes: list[Outcome]) -> str:
    """A line for each claim that was not measured: why."""
    lines = [f"{outcome.claim.name}: {outcome.note}" for outcome in outcomes if outcome.difference is None]
    return "\n".join([f"not measured: {len(lines)} of {len(outcomes)}", *lines])


def main(arguments: list[str] | None = None) -> None:
    """Print every claim with its verdict."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path("docs/claims.yaml"), help="the claims")
    parser.add_argument("--root", type=Path, default=Path(), help="folder that the evaluations' paths begin in")
    parser.add_argument("--out", type=Path, help="write the verdicts as JSON too")
    options = parser.parse_args(arguments)
    with one_line_errors():
        outcomes = outcomes_of(options.file, options.root)
        claims = [outcome.claim for outcome in outcomes]
        late = {claim.name for claim in claims if is_late(claim, options.file, options.root)}
    console = Console()
    console.print(claims_table(outcomes, late))
    console.print(waiting(outcomes), highlight=False, markup=False, soft_wrap=True)
    if options.out is not None:
        rows = [as_dict(outcome) | {"late": outcome.claim.name in late} for outcome in outcomes]
        write_json(options.out, {"claims": rows})


if __name__ == "__main__":
    main()
