"""Claims: verdicts of made-up scores that are known beforehand, Holm's order, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from mmig.evaluation.bootstrap import mean_interval
from mmig.evaluation.claims import ALPHA, Claim, gains, judge_claims, read_claims
from mmig.evaluation.settings import SettingsError

KEYS = 600


def claim(name: str = "a", **settings: Any) -> Claim:
    return Claim(name, "first is better", f"one-{name}-{{seed}}", f"other-{name}-{{seed}}", "data.yaml", **settings)


def differences(*means: float, spread: float = 0.4, seed: int = 0) -> np.ndarray:
    """Gains of training seeds with exactly these means and spread around them, the same for every seed."""
    noise = np.random.default_rng(seed).standard_normal(KEYS)
    noise = (noise - noise.mean()) / noise.std()
    return np.array([mean + spread * noise for mean in means])


def verdicts(measured: dict[str, Any], **settings: Any) -> dict[str, str]:
    outcomes = judge_claims([claim(name, **settings) for name in measured], measured)
    return {outcome.claim.name: outcome.verdict for outcome in outcomes}


def test_known_verdicts() -> None:
    assert verdicts({"a": differences(0.1, 0.12, 0.08)}) == {"a": "shown"}
    assert verdicts({"a": differences(-0.1, -0.1, -0.1)}) == {"a": "refuted"}
    assert verdicts({"a": differences(0.01, 0.01, 0.01)}) == {"a": "not shown"}
    assert verdicts({"a": "no evaluations"}) == {"a": "not measured"}


def test_one_training_seed_that_disagrees_is_enough_to_doubt() -> None:
    (outcome,) = judge_claims([claim()], {"a": differences(0.3, 0.3, -0.01)})
    assert outcome.verdict == "not shown" and "disagree" in outcome.note
    assert outcome.difference is not None and outcome.difference.low > 0
    assert outcome.by_seed == pytest.approx((0.3, 0.3, -0.01))


def test_the_interval_of_the_ith_claim_is_at_holms_level() -> None:
    means = {"a": 0.05, "b": 0.2, "c": 0.1}
    measured = {name: differences(mean, seed=number) for number, (name, mean) in enumerate(means.items())}
    outcomes = {outcome.claim.name: outcome for outcome in judge_claims([claim(n) for n in "cab"], measured)}
    for number, name in enumerate("bca"):  # from the strongest evidence on
        level = 1 - ALPHA / (3 - number)
        expected = mean_interval(measured[name].mean(0), 20_000, level)
        assert (outcomes[name].difference.low, outcomes[name].difference.high) == (expected.low, expected.high)


def test_many_claims_correct_each_other() -> None:
    weak = differences(0.037)  # 2.27 standard errors: below 5 % alone, not among ten
    assert verdicts({"a": weak}, seeds=(0,)) == {"a": "shown"}
    others = {f"nothing-{number}": differences(0.0, seed=number + 1) for number in range(9)}
    assert verdicts({"a": weak, **others}, seeds=(0,))["a"] == "not shown"
    unmeasured = dict.fromkeys(others, "no evaluations")
    assert verdicts({"a": weak, **unmeasured}, seeds=(0,))["a"] == "not shown"  # they were claimed all the same


def test_after_the_first_that_is_not_shown_none_is() -> None:
    weaker, weak = differences(0.033, seed=1), differences(0.034, seed=2)  # 2.0 and 2.1 errors: 1.96 is enough for one
    assert verdicts({"a": weaker}, seeds=(0,)) == {"a": "shown"}
    assert verdicts({"a": weaker, "b": weak}, seeds=(0,)) == {"a": "not shown", "b": "not shown"}


def test_direction_and_margin() -> None:
    better, worse = ({seed: {str(key): value for key in range(KEYS)} for seed in range(3)} for value in (0.5, 0.6))
    lower = claim(direction="lower", margin=0.05)
    assert gains(lower, better, worse) == pytest.approx(0.05)
    (outcome,) = judge_claims([lower], {"a": gains(lower, better, worse) + differences(0.0, 0.0, 0.0, spread=0.1)})
    assert outcome.verdict == "shown" and outcome.difference is not None
    assert outcome.difference.value == pytest.approx(-0.1) and outcome.difference.high < -0.05
    no_worse = claim(margin=-0.02)
    assert gains(no_worse, better, worse) == pytest.approx(-0.08)


def test_arms_of_other_samples_or_too_few_are_refused() -> None:
    scores = {seed: {str(key): 1.0 for key in range(KEYS)} for seed in range(3)}
    other = scores | {2: {str(key): 1.0 for key in range(1, KEYS + 1)}}
    with pytest.raises(ValueError, match="different samples"):
        gains(claim(), scores, other)
    few = {seed: {"0": 1.0} for seed in range(3)}
    with pytest.raises(ValueError, match="1 samples have a value of joint, claimed are 600"):
        gains(claim(), few, few)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keys": 100}, "at least 600"),
        ({"direction": "up"}, "direction"),
        ({"seeds": [0, 0]}, "different ones"),
        ({"measures": "joint"}, "unknown 'measures'"),
        ({"data": None}, "data"),
    ],
)
def test_a_claim_that_cannot_be_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    entry = {"name": "a", "says": "b", "first": "x", "second": "y", "data": "z"} | change
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": [entry]}), encoding="utf-8")
    with pytest.raises(SettingsError, match=said):
        read_claims(path)


def test_a_name_twice_is_refused(tmp_path: Path) -> None:
    entry = {"name": "a", "says": "b", "first": "x", "second": "y", "data": "z"}
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump({"claims": [entry, entry]}), encoding="utf-8")
    with pytest.raises(SettingsError, match="two claims are named 'a'"):
        read_claims(path)


def test_the_repositorys_own_claims_can_be_read(root: Path) -> None:
    read_claims(root / "docs" / "claims.yaml")
