import numpy as np
import pytest
import scipy.stats

from mmig.evaluation.bootstrap import Interval, mean_interval, paired_difference


def test_interval_is_scipys_percentile_bootstrap() -> None:
    values = np.random.default_rng(1).exponential(size=200)
    ours = mean_interval(values, num_resamples=20_000)
    theirs = scipy.stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=0)
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.01)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.01)


def test_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(2)
    hits = 0
    for trial in range(300):
        interval = mean_interval(random.normal(1.0, 1.0, 60), num_resamples=500, seed=trial)
        hits += interval.low <= 1.0 <= interval.high
    assert 0.90 <= hits / 300 <= 0.985


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(0).normal(size=50)
    assert mean_interval(values, seed=3) == mean_interval(values, seed=3) != mean_interval(values, seed=4)


def test_drawing_in_parts_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=50)
    whole = mean_interval(values)
    monkeypatch.setattr("mmig.evaluation.bootstrap._CHUNK", 1000)
    assert mean_interval(values) == whole


def test_values_without_number_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 2"):
        mean_interval(np.array([1.0, np.nan]))


def test_no_values_have_no_mean() -> None:
    interval = mean_interval(np.array([]))
    assert interval.n == 0
    assert np.isnan(interval.value)
    assert not interval.excludes_zero


def test_one_value_has_a_mean_and_no_interval() -> None:
    for interval in (mean_interval(np.array([0.25])), paired_difference({"a": 1.0}, {"a": 0.75, "b": 0.0})):
        assert (interval.value, interval.n) == (0.25, 1)
        assert np.isnan([interval.low, interval.high]).all()
        assert not interval.excludes_zero
        assert interval.bounds(".3f") == "[-]"


def test_bounds_are_written_as_a_table_wants_them() -> None:
    interval = mean_interval(np.array([0.1, 0.3, 0.2, 0.4]))
    assert interval.bounds("+.1f", 100) == f"[{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    assert Interval(0.512, 0.48, 0.54, 9).told(".3f") == "0.512 [0.480, 0.540]"
    assert Interval(-0.05, np.nan, np.nan, 1).told("+.1f", 100) == "-5.0 [-]"


def test_pairs_see_a_small_difference_that_means_alone_do_not() -> None:
    random = np.random.default_rng(0)
    hard = {f"sample{i}": value for i, value in enumerate(random.normal(0, 10, 100))}
    better = {key: value - 0.2 + random.normal(0, 0.1) for key, value in hard.items()}
    paired = paired_difference(better, hard)
    assert paired.high < 0
    assert paired.value == pytest.approx(-0.2, abs=0.05)
    unpaired = mean_interval(np.array(list(better.values())))
    assert unpaired.low < np.mean(list(hard.values())) < unpaired.high


def test_only_keys_of_both_sides_are_compared() -> None:
    assert paired_difference({"a": 2.0, "b": 9.0}, {"a": 1.0, "c": 0.0}).n == 1


def test_sides_without_a_common_key_are_refused() -> None:
    with pytest.raises(ValueError, match="share no sample key"):
        paired_difference({"a": 1.0}, {"b": 1.0})
