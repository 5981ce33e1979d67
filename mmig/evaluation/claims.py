"""Claims about systems, written down before their runs start, and what the runs say about them.

A claim names two arms of a comparison, one measure and a direction. What counts is decided beforehand: the split, at
least so many sample keys, the training seeds. Among all claims of a file Holm's step-down correction (Holm 1979) keeps
the chance of any wrong verdict below 5 %.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mmig.base.values import check_values
from mmig.evaluation.bootstrap import Interval, mean_interval
from mmig.evaluation.rows import by_key, read_rows
from mmig.evaluation.settings import SettingsError, read_yaml

Verdict = Literal["shown", "refuted", "not shown", "not measured"]
ALPHA = 0.05
NUM_RESAMPLES = 20_000
"""Enough for the tails of a corrected interval among some dozens of claims."""
LEAST_KEYS = 600
"""Tell about 6 points of a share apart."""
Scores = Mapping[int, Mapping[str, float]]
"""Of an arm: training seed -> sample key -> value, sampling seeds averaged."""


@dataclass(frozen=True)
class Claim:
    """That one system is better than another.

    Attributes:
        name: short, of this claim alone. says: the claim in a sentence.
        first, second: folders of evaluations (`evaluate.py --out`) of both arms, "{seed}" standing for the training
            seed; first is the one that is to be better.
        data: the configuration, and split, its split, that both were scored on.
        second_data: the configuration that second was scored on where it is another one, whose samples have the same
            keys: the same edits asked for in another way.
        measure: name of the metric.
        direction: whether first is to be "higher" or "lower".
        margin: least difference that is claimed, in the measure's unit; a negative one allows first to be worse by it.
        keys: how many samples are compared at least.
        seeds: training seeds.
    """

    name: str
    says: str
    first: str
    second: str
    data: str
    measure: str = "joint"
    split: str = "test"
    direction: Literal["higher", "lower"] = "higher"
    margin: float = 0.0
    keys: int = LEAST_KEYS
    seeds: tuple[int, ...] = (0, 1, 2)
    second_data: str = ""

    def __post_init__(self) -> None:
        """Raise ValueError for what cannot be, or tells too little."""
        check_values(self, f"claim {self.name}")
        if self.keys < LEAST_KEYS:
            raise ValueError(f"claim {self.name}: keys: expected at least {LEAST_KEYS}, found {self.keys}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"claim {self.name}: seeds: expected different ones, found {list(self.seeds)}")

    @property
    def sign(self) -> float:
        """1 where first is to be higher, -1 where lower."""
        return 1.0 if self.direction == "higher" else -1.0


@dataclass(frozen=True)
class Outcome:
    """What the runs say about a claim.

    Attributes:
        claim: it. verdict: of all claims together, see `judge_claims`.
        difference: first minus second with the corrected interval; None where not measured.
        by_seed: difference of each training seed.
        note: why there is no verdict, or why an interval beyond zero is none.
    """

    claim: Claim
    verdict: Verdict
    difference: Interval | None = None
    by_seed: tuple[float, ...] = ()
    note: str = ""


def claim_of(entry: Any) -> Claim:
    """A claim from an entry of the file.

    Raises:
        ValueError: an unknown or missing key, or a value that cannot be.
    """
    known = {item.name for item in fields(Claim)}
    if not isinstance(entry, dict) or (unknown := entry.keys() - known):
        found = min(unknown) if isinstance(entry, dict) else entry
        raise ValueError(f"unknown {found!r}; expected {', '.join(sorted(known))}")
    given = entry | ({"seeds": tuple(entry["seeds"])} if "seeds" in entry else {})
    try:
        return Claim(**given)
    except TypeError as error:
        raise ValueError(str(error).replace("Claim.__init__() ", "")) from error


def read_claims(path: Path) -> list[Claim]:
    """The claims of a YAML file, a list under `claims`.

    Raises:
        SettingsError: another file, an unknown or missing key, a value that cannot be, or one name twice.
    """
    claims = []
    for number, entry in enumerate(read_yaml(path).get("claims") or [], 1):
        try:
            claims.append(claim_of(entry))
        except ValueError as error:
            raise SettingsError(f"{path}: claim {number}: {error}") from error
    names = [claim.name for claim in claims]
    if twice := {name for name in names if names.count(name) > 1}:
        raise SettingsError(f"{path}: two claims are named {min(twice)!r}")
    return claims


def read_arm(claim: Claim, pattern: str, root: Path) -> Scores | None:
    """Scores of an arm for every training seed; None where an evaluation is not there yet.

    Raises:
        ValueError: a broken file.
    """
    scores = {}
    for seed in claim.seeds:
        path = root / pattern.replace("{seed}", str(seed)) / "samples.jsonl"
        if not path.is_file():
            return None
        scores[seed] = by_key(read_rows(path), claim.measure)
    return scores


def gains(claim: Claim, first: Scores, second: Scores) -> NDArray[np.float64]:
    """By how much first is better than second, less the margin, in the claim's direction: [training seeds, keys].

    Raises:
        ValueError: the arms, or the seeds of one, were scored on different samples, or on fewer than claimed.
    """
    keys = sorted(first[claim.seeds[0]])
    for scores in (*first.values(), *second.values()):
        if sorted(scores) != keys:
            raise ValueError("the evaluations are of different samples")
    if len(keys) < claim.keys:
        raise ValueError(f"{len(keys)} samples have a value of {claim.measure}, claimed are {claim.keys}")
    rows = [
        [claim.sign * (first[seed][key] - second[seed][key]) - claim.margin for key in keys] for seed in claim.seeds
    ]
    return np.array(rows, dtype=np.float64)


def judge_claims(claims: Sequence[Claim], measured: Mapping[str, NDArray[np.float64] | str]) -> list[Outcome]:
    """Verdicts of all claims of a file.

    Training seeds are averaged for each key. Claims are taken in the order of their evidence, and the i-th of m gets
    an interval at the level 1 - 0.05 / (m - i); from the first one whose interval holds zero on, none counts. m is the
    number of all claims, measured or not. *Shown*: the interval lies above zero and every training seed's mean does;
    *refuted*: the interval lies below.

    Args:
        claims: in any order.
        measured: by name, `gains`, or why there are none.
    """
    outcomes: dict[str, Outcome] = {}
    values: dict[str, NDArray[np.float64]] = {}
    for claim in claims:
        found = measured.get(claim.name, "no evaluations")
        if isinstance(found, str):
            outcomes[claim.name] = Outcome(claim, "not measured", note=found)
        else:
            values[claim.name] = found
    standing, by_name = True, {claim.name: claim for claim in claims}
    for number, name in enumerate(sorted(values, key=lambda name: (-_evidence(values[name]), name))):
        level = 1 - ALPHA / (len(claims) - number)
        interval = mean_interval(values[name].mean(axis=0), NUM_RESAMPLES, level)
        standing = standing and interval.excludes_zero
        outcomes[name] = _outcome(by_name[name], interval, values[name].mean(axis=1), standing)
    return [outcomes[claim.name] for claim in claims]


def _outcome(claim: Claim, gain: Interval, by_seed: NDArray[np.float64], standing: bool) -> Outcome:
    sign = claim.sign
    ends = sorted(sign * (end + claim.margin) for end in (gain.low, gain.high))
    difference = Interval(sign * (gain.value + claim.margin), ends[0], ends[1], gain.n)
    differences = tuple(float(sign * (value + claim.margin)) for value in by_seed)
    note, verdict = "", "not shown"
    if standing and gain.high < 0:
        verdict = "refuted"
    elif standing and (by_seed > 0).all():
        verdict = "shown"
    elif standing:
        note = "the training seeds disagree"
    return Outcome(claim, verdict, difference, differences, note)  # type: ignore[arg-type]


def _evidence(values: NDArray[np.float64]) -> float:
    """Distance of the mean from zero in standard errors."""
    means = values.mean(axis=0)
    error = means.std() / len(means) ** 0.5
    return float("inf") if error == 0 and means.any() else float(abs(means.mean()) / max(error, 1e-12))


def as_dict(outcome: Outcome) -> dict[str, Any]:
    """JSON form."""
    interval = outcome.difference
    return {
        "name": outcome.claim.name,
        "verdict": outcome.verdict,
        "difference": None if interval is None else [interval.value, interval.low, interval.high],
        "n": None if interval is None else interval.n,
        "by_seed": list(outcome.by_seed),
        "note": outcome.note,
    }
