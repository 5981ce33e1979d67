"""Published rows go through the aggregators: from replies that have their means by type to the means that stand beside.

Some tables print a mean over items (micro) where others print one over types (macro), and some neither.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from mmig.evaluation.judged.aggregate import aggregate
from mmig.evaluation.judged.benchmarks import BENCHMARKS
from mmig.evaluation.judged.items import Item
from mmig.evaluation.judged.kris import needed
from mmig.evaluation.judged.kris_items import GROUPS, WITH_KNOWLEDGE
from mmig.evaluation.judged.means import Scored, tabulate
from mmig.evaluation.judged.rise_items import needed as asked
from mmig.metrics.published_numbers import PublishedRow, published
from tests.mmig.evaluation.judged.support import Rows, item, lines, row, vie

COUNTS = {name: make().facts["counts"] for name, make in BENCHMARKS.items()}
IMGEDIT, REDEDIT = published("imgedit_bench").rows, published("rededit_bench").rows
FEW = 10
"""Resamples: intervals are not looked at here."""
NEITHER = ("FLUX.1-Kontext-dev", "Ovis-U1", "GPT-4o-Image")
"""Of ImgEdit's leaderboard: their overall is no mean of their types."""
FREE = {"temporal_reasoning": 5, "causal_reasoning": 2}
"""RISEBench's items without a consistency score, as BAGEL's means of consistency tell (353 of 360)."""


def some_quick(rows: Sequence[PublishedRow], quick: int = 2) -> list[Any]:
    """Rows to parametrise a test by, of which the first and the last alone are quick."""
    return [
        pytest.param(
            one,
            id=f"{one.method} ({one.setting})",
            marks=() if number < quick or number == len(rows) - 1 else pytest.mark.slow,
        )
        for number, one in enumerate(rows)
    ]


def items_of(counts: Mapping[str, int], **about: Any) -> list[Item]:
    return [item(f"{kind}/{number}", kind, **about) for kind, count in counts.items() for number in range(count)]


def spread(mean: float, count: int) -> list[int]:
    """Whole numbers whose mean is the nearest that so many of them can have."""
    total = round(mean * count)
    return [total // count + (number < total % count) for number in range(count)]


def triples(mean: float, count: int) -> list[tuple[int, int, int]]:
    """Scores of images whose means, rounded to two decimals, have a mean that rounds to this one."""
    low = min(int(mean), 4)
    for thirds in range(min(count, 10)):
        for two_thirds in range(min(count - thirds, 10)):
            uneven = [low + 0.33] * thirds + [low + 0.67] * two_thirds
            rest = count - len(uneven)
            total = round(mean * count - sum(uneven))
            values = uneven + [total // rest + float(number < total % rest) for number in range(rest)]
            if round(sum(values) / count, 2) == mean and min(values) >= 1 and max(values) <= 5:
                return [_scores(value) for value in values]
    raise AssertionError(f"no {count} images have a mean of {mean}")


def _scores(value: float) -> tuple[int, int, int]:
    low, part = int(value), round(value - int(value), 2)
    return (low, low + (part > 0.5), low + (part > 0))


def by_lines(benchmark: str, published_row: PublishedRow) -> dict[str, Any]:
    """The official result of replies that have the row's means by type."""
    counts = COUNTS[benchmark]
    rows: Rows = []
    for kind, count in counts.items():
        found = triples(published_row.values[kind], count)
        rows += [row(f"{kind}/{number}", "edit", lines(*scores)) for number, scores in enumerate(found)]
    result = aggregate(BENCHMARKS[benchmark](), items_of(counts), rows, "official", num_resamples=FEW)
    score = result["measures"]["score"]
    printed = {kind: published_row.values[kind] for kind in counts}
    assert {kind: cell["value"] for kind, cell in score["groups"]["kind"].items()} == printed
    assert result["counts"]["complete"] == sum(counts.values())
    return score


@pytest.mark.parametrize("one", some_quick(IMGEDIT))
def test_imgedit_prints_means_of_types_but_for_four_rows(one: PublishedRow) -> None:
    score = by_lines("imgedit", one)
    macro, micro, printed = score["macro"]["value"], score["micro"]["value"], one.values["overall"]
    if one.setting == "BAGEL's own":  # its script takes the mean over items; of all 737 that is another number
        assert (round(macro, 2), micro, printed) == (3.33, 3.22, 3.28)
    elif one.setting == "leaderboard" and one.method in NEITHER:
        assert min(abs(macro - printed), abs(micro - printed)) > 0.005
    else:
        assert macro == pytest.approx(printed, abs=0.0051)


def test_the_two_averages_of_imgedit_are_far_apart() -> None:
    magicbrush = by_lines("imgedit", next(one for one in IMGEDIT if one.method == "MagicBrush"))
    assert round(magicbrush["macro"]["value"], 2) == 1.83
    assert magicbrush["micro"]["value"] in (1.89, 1.9)  # GPT-Image-Edit prints 1.90
    gpt = by_lines("imgedit", next(one for one in IMGEDIT if one.method == "GPT-4o-Image"))
    assert (round(gpt["macro"]["value"], 2), gpt["micro"]["value"]) == (4.24, 4.19)


def test_kontexts_overall_on_imgedits_leaderboard_is_that_of_other_types() -> None:
    board = next(one for one in IMGEDIT if one.method == "FLUX.1-Kontext-dev")
    other = next(one for one in IMGEDIT if one.method == "FLUX.1 Kontext [Dev]")
    assert by_lines("imgedit", other)["macro"]["value"] == pytest.approx(board.values["overall"], abs=0.0051)


@pytest.mark.parametrize("one", some_quick(REDEDIT))
def test_rededit_prints_means_of_tasks_rounded_or_cut(one: PublishedRow) -> None:
    score = by_lines("rededit", one)
    assert -0.005 <= score["macro"]["value"] - one.values["overall"] < 0.01


def gedit_settings() -> Iterator[tuple[str, str]]:
    for language in ("en", "cn"):
        for part in ("full", "intersection"):
            yield language, part


def gedit_rows(language: str, part: str) -> dict[str, PublishedRow]:
    prefix = f"{language}, {part}, "
    rows = published("gedit_bench").rows
    return {one.setting.removeprefix(prefix): one for one in rows if one.setting.startswith(prefix)}


@pytest.mark.parametrize(("language", "part"), list(gedit_settings()))
def test_gedits_average_is_the_mean_of_types(language: str, part: str) -> None:
    rows = gedit_rows(language, part)
    average = rows.pop("all types")
    for name, printed in average.values.items():
        values = [Scored(item(kind, kind), *[one.values[name]] * 3) for kind, one in rows.items()]
        assert tabulate(values, num_resamples=FEW)["macro"]["value"] == pytest.approx(printed, abs=0.001)


@pytest.mark.parametrize("language", ["en", "cn"])
def test_gedits_scores_by_type_are_means_of_whole_numbers(language: str) -> None:
    published_rows, counts = gedit_rows(language, "full"), COUNTS["gedit"]
    rows: Rows = []
    for kind, count in counts.items():
        sc, pq = (spread(published_rows[kind].values[name], count) for name in ("SC", "PQ"))
        for number in range(count):
            key = f"{kind}/{number}"
            rows += [row(key, "SC", vie([sc[number], 10])), row(key, "PQ", vie([10, pq[number]]))]
    for mode in ("official", "corrected"):
        measures = aggregate(
            BENCHMARKS["gedit"](), items_of(counts, intersection=False), rows, mode, num_resamples=FEW
        )["measures"]
        for name in ("SC", "PQ"):
            for kind in counts:
                cell = measures[name]["groups"]["kind"][kind]
                assert cell["value"] == pytest.approx(published_rows[kind].values[name], abs=0.0006), kind
            assert measures[name]["macro"]["value"] == pytest.approx(
                published_rows["all types"].values[name], abs=0.001
            )


@pytest.mark.parametrize("method", ["BAGEL", "BAGEL with chain of thought"])
def test_kris_groups_and_overall_are_flat_means_over_scores(method: str) -> None:
    printed = {
        one.setting: one.values
        for one in published("kris_bench").rows
        if one.method == method and one.setting != "README"
    }
    counts, rows = COUNTS["kris"], []
    groups = {dimension: group for group, dimensions in GROUPS.items() for dimension in dimensions}
    items = [item(f"{kind}/{n}", kind, {"group": groups[kind]}) for kind, count in counts.items() for n in range(count)]
    for kind, count in counts.items():
        scores = {name: spread(value / 25 + 1, count) for name, value in printed[kind].items() if name != "AVG"}
        for number in range(count):
            rows += list(kris_rows(item(f"{kind}/{number}", kind), {name: of[number] for name, of in scores.items()}))
    measures = aggregate(BENCHMARKS["kris"](), items, rows, "official", num_resamples=FEW)["measures"]
    for kind in counts:
        for name, value in printed[kind].items():
            assert measures[name]["groups"]["kind"][kind]["value"] == pytest.approx(value, abs=0.0051), (kind, name)
    for group in GROUPS:
        cell = measures["AVG"]["groups"]["group"][group]
        assert cell["value"] == pytest.approx(printed[group]["AVG"], abs=0.0051)
    assert measures["AVG"]["micro"]["value"] == pytest.approx(printed["Overall"]["AVG"], abs=0.0051)
    mended = aggregate(BENCHMARKS["kris"](), items, rows, "corrected", num_resamples=FEW)["measures"]["AVG"]["micro"][
        "value"
    ]
    assert mended - printed["Overall"]["AVG"] > 0.05  # knowledge is hard, and weighs more in the official mean


def kris_rows(one: Item, scores: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    fields = {"consistency": ("VC",), "quality": ("VQ",), "instruction": ("IF",), "dual": ("IF", "KP")}
    long = {"VC": "consistency", "VQ": "quality", "IF": "instruction", "KP": "knowledge"}
    for name in needed(one):
        yield row(one.key, name, json.dumps({f"{long[short]}_score": scores[short] for short in fields[name]}))


def test_kris_has_4469_scores() -> None:
    counts = COUNTS["kris"]
    assert sum(count * (3 + (kind in WITH_KNOWLEDGE)) for kind, count in counts.items()) == 4469


def rise_items() -> list[Item]:
    found = []
    for kind, count in COUNTS["risebench"].items():
        for number in range(count):
            about = {"consistency_free": True} if number < FREE.get(kind, 0) else {}
            found.append(item(f"{kind}/{number}", kind, **about))
    return found


def rise_rows(one: Item, scores: Mapping[str, int]) -> Rows:
    return [row(one.key, name, f"Final Score: {scores[name]}") for name in asked(one)]


@pytest.mark.parametrize("one", some_quick([one for one in published("risebench").rows if one.setting == "README"]))
def test_rise_accuracy_is_over_items(one: PublishedRow) -> None:
    rows: Rows = []
    items = rise_items()
    for kind, count in COUNTS["risebench"].items():
        right = round(one.values[kind] * count / 100)
        assert right * 100 / count == pytest.approx(one.values[kind], abs=0.09)  # printed rounded, or cut
        for number, of in enumerate([found for found in items if found.kind == kind]):
            best = 1 if kind == "logical_reasoning" else 5
            rows += rise_rows(of, dict.fromkeys(("consistency", "reasoning", "plausibility"), best * (number < right)))
    accuracy = aggregate(BENCHMARKS["risebench"](), items, rows, "official", num_resamples=FEW)["measures"]["accuracy"]
    assert accuracy["micro"]["value"] == pytest.approx(one.values["overall"], abs=0.06)


@pytest.mark.parametrize("method", ["BAGEL", "BAGEL with chain of thought"])
def test_rise_means_of_scores_are_over_those_that_are_asked(method: str) -> None:
    printed = {
        one.setting: one.values
        for one in published("risebench").rows
        if one.method == method and one.setting != "README"
    }
    rows: Rows = []
    items = rise_items()
    for kind in COUNTS["risebench"]:
        of_kind = [one for one in items if one.kind == kind]
        scores: dict[str, dict[str, int]] = {one.key: {} for one in of_kind}
        for name in ("consistency", "reasoning", "plausibility"):
            wanted = [one for one in of_kind if name in asked(one)]
            if wanted:
                is_puzzle = kind == "logical_reasoning"
                for one, score in zip(wanted, _rise_scores(printed[kind][name], len(wanted), is_puzzle), strict=True):
                    scores[one.key][name] = score
        rows += [line for one in of_kind for line in rise_rows(one, scores[one.key])]
    measures = aggregate(BENCHMARKS["risebench"](), items, rows, "official", num_resamples=FEW)["measures"]
    for name in ("consistency", "reasoning", "plausibility"):
        for kind in COUNTS["risebench"]:
            if name in printed[kind]:
                assert measures[name]["groups"]["kind"][kind]["value"] == pytest.approx(printed[kind][name], abs=1e-4)
        assert measures[name]["micro"]["value"] == pytest.approx(printed["all"][name], abs=1e-4)


def _rise_scores(percent: float, count: int, is_puzzle: bool) -> Sequence[int]:
    return spread(percent / 100, count) if is_puzzle else spread(percent / 25 + 1, count)


@pytest.mark.parametrize("method", ["BAGEL", "BAGEL with chain of thought"])
@pytest.mark.parametrize("measure", ["score", "accuracy"])
def test_rise_overall_is_the_mean_over_items(method: str, measure: str) -> None:
    printed = {
        one.setting: one.values[measure]
        for one in published("risebench").rows
        if one.method == method and one.setting != "README"
    }
    values = [Scored(one, *[printed[one.kind]] * 3) for one in rise_items()]
    table = tabulate(values, num_resamples=FEW)
    assert table["micro"]["value"] == pytest.approx(printed["all"], abs=1e-4)
    assert table["macro"]["value"] != pytest.approx(printed["all"], abs=0.1)
