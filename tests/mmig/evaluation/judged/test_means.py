"""Means over items and over types, their bounds and weights, against numbers by hand."""

import pytest

from mmig.evaluation.judged.items import Item
from mmig.evaluation.judged.means import Answers, Measure, Scored, scored, tabulate
from tests.mmig.evaluation.judged.support import item


def known(key: str, kind: str, value: float, weight: float = 1.0) -> Scored:
    return Scored(item(key, kind), value, value, value, weight, weight)


def test_micro_weighs_items_and_macro_types() -> None:
    table = tabulate([known("a", "add", 1), known("b", "add", 2), known("c", "add", 3), known("d", "style", 5)])
    assert table["micro"]["value"] == pytest.approx(11 / 4)
    assert table["macro"]["value"] == pytest.approx((2 + 5) / 2)
    assert table["groups"]["kind"]["add"]["value"] == 2
    assert table["micro"]["low"] <= 11 / 4 <= table["micro"]["high"]
    assert table["macro"]["low"] <= 3.5 <= table["macro"]["high"]


def test_what_is_missing_leaves_the_mean_and_makes_the_bounds() -> None:
    table = tabulate(
        [known("a", "add", 4), Scored(item("b", "add"), None, 1, 5), Scored(item("c", "style"), None, 1, 5)]
    )
    micro, macro = table["micro"], table["macro"]
    assert (micro["value"], micro["n"], micro["items"]) == (4, 1, 3)
    assert (micro["worst"], micro["best"]) == pytest.approx(((4 + 1 + 1) / 3, (4 + 5 + 5) / 3))
    assert macro["value"] == 4  # a type without any value leaves it
    assert (macro["worst"], macro["best"]) == pytest.approx((((4 + 1) / 2 + 1) / 2, ((4 + 5) / 2 + 5) / 2))


def test_nothing_at_all_has_no_mean_but_bounds() -> None:
    micro = tabulate([Scored(item("a", "add"), None, 1, 5)])["micro"]
    assert (micro["value"], micro["low"], micro["high"], micro["worst"], micro["best"]) == (None, None, None, 1, 5)


def test_values_of_several_scores_weigh_as_many() -> None:
    table = tabulate([known("a", "x", 100, 4), known("b", "x", 30, 3)])
    assert table["micro"]["value"] == pytest.approx((100 * 4 + 30 * 3) / 7)


def test_means_of_types_are_rounded_before_they_count_further() -> None:
    values = [known("a", "add", 1), known("b", "add", 1), known("c", "add", 2), known("d", "style", 3)]
    assert tabulate(values, 2)["macro"]["value"] == (1.33 + 3) / 2
    assert tabulate(values)["macro"]["value"] == pytest.approx((4 / 3 + 3) / 2)


def test_an_item_counts_further_groups_too() -> None:
    table = tabulate([Scored(item("a", "x", {"group": "G"}), 1, 1, 1), Scored(item("b", "y", {"group": "G"}), 4, 4, 4)])
    assert table["groups"]["group"]["G"]["value"] == 2.5


def test_an_interval_is_that_of_means_of_resampled_items() -> None:
    values = [known(str(n), "x", n % 2) for n in range(400)]
    micro = tabulate(values)["micro"]
    assert micro["value"] == 0.5
    assert micro["high"] - micro["low"] == pytest.approx(2 * 1.96 * 0.5 / 400**0.5, rel=0.1)


def least(_: Item, answers: Answers) -> float:
    return min(answers["q"])


def test_passes_that_can_be_read_make_the_value_and_the_others_the_bounds() -> None:
    measure = Measure("least", least, lambda item: ("q",), (0, 10))
    given = {"a": [(6, 8), None], "b": [(3, 4), (5, 5)], "c": [None, None]}
    found = scored(
        measure,
        [item(key, "x") for key in given],
        lambda item, name: given[item.key],
        lambda item, name: ((0, 0), (10, 10)),
    )
    assert [(value.value, value.worst, value.best) for value in found] == [(6, 3, 8), (4, 4, 4), (None, 0, 10)]
