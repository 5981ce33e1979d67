"""From the rows of judge.jsonl to a benchmark's numbers: pure functions, one result for each mode."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from mmig.evaluation.bootstrap import NUM_RESAMPLES
from mmig.evaluation.judged.benchmark import Benchmark, Given, Official
from mmig.evaluation.judged.items import Item
from mmig.evaluation.judged.means import Measure, Scored, Scores, scored, tabulate
from mmig.evaluation.judged.replies import BROKEN_PICTURE, NO_PICTURE, NO_REPLY, NO_SOURCE, Reading

Mode = Literal["official", "corrected"]
MODES: tuple[Mode, ...] = ("corrected", "official")
NOT_SHOWN = (NO_PICTURE, NO_SOURCE, BROKEN_PICTURE)
"""Failures before a judge is asked."""


def aggregate(
    benchmark: Benchmark,
    items: Sequence[Item],
    rows: Iterable[Mapping[str, Any]],
    mode: Mode,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Any]:
    """What the rows come to.

    Replies are read anew: in mode "corrected" strictly (`replies`), in mode "official" as the benchmark's own script
    does, defects and all. Items without rows count as missing.

    Args:
        benchmark: whose rules.
        items: all that it has.
        rows: of judge.jsonl; `item`, `question`, `pass`, `reply` and `failure` count.
        mode: see above.
        seed: of what the official script draws.
        num_resamples: of the bootstrap.

    Returns:
        {"benchmark", "mode", "headline", "measures": {name: `tabulate`'s table and "scale"}, "counts", "defects":
        {name: how often it acted}}, the last empty in mode "corrected".
    """
    given = as_given(rows, seed)
    readings = _read_all(benchmark, items, given)

    def of_question(item: Item, name: str) -> Sequence[Scores | None]:
        return [reading.scores for reading in readings[item.key, name]]

    official = benchmark.official(items, given) if mode == "official" else None
    measures = {}
    for measure in benchmark.measures:
        if measure.official_only and official is None:
            continue
        values = scored(measure, items, of_question, benchmark.extremes)
        if official is not None:
            values = [_as_official(benchmark, measure, value, official) for value in values]
        if values:
            digits = official.digits if official is not None else None
            measures[measure.name] = {"scale": list(measure.scale), **tabulate(values, digits, num_resamples)}
    return {
        "benchmark": benchmark.name,
        "mode": mode,
        "headline": benchmark.headline,
        "measures": measures,
        "counts": _counts(items, readings),
        "defects": {name: n for name, n in sorted(official.acted.items()) if n} if official is not None else {},
    }


def as_given(rows: Iterable[Mapping[str, Any]], seed: int = 0) -> Given:
    """The replies of some rows by question and pass, and which items a judge could not be shown."""
    by_place: dict[tuple[str, str], dict[int, str | None]] = {}
    missing: dict[str, str] = {}
    reasons: dict[tuple[str, str], str] = {}
    for row in rows:
        place = row["item"], row["question"]
        by_place.setdefault(place, {})[row.get("pass", 0)] = row.get("reply")
        if row.get("reply") is None and row.get("failure"):
            reasons[place] = row["failure"]
        if row.get("failure") in NOT_SHOWN:
            missing[row["item"]] = row["failure"]
    num_passes = 1 + max((number for passes in by_place.values() for number in passes), default=0)
    replies = {place: [passes.get(number) for number in range(num_passes)] for place, passes in by_place.items()}
    return Given(replies, missing, reasons, seed)


def reading_of(benchmark: Benchmark, item: Item, row: Mapping[str, Any]) -> Reading:
    """Strict reading of a row's reply; without one its failure."""
    if row.get("reply") is None:
        return Reading(None, row.get("failure") or NO_REPLY)
    return benchmark.read(item, row["question"], row["reply"])


def _as_official(benchmark: Benchmark, measure: Measure, value: Scored, official: Official) -> Scored:
    """The official value; what is complete has it as its bounds, what is not keeps those of what is missing."""
    key = value.item.key
    found = official.values[measure.name].get(key)
    weight = full = 1.0
    if measure.name in official.weights:
        weight = float(official.weights[measure.name].get(key, 0))
        full = float(sum(len(benchmark.extremes(value.item, name)[0]) for name in measure.needs(value.item)))
    is_complete = value.value is not None and value.worst == value.best
    if found is not None and is_complete:
        return Scored(value.item, found, found, found, weight, full)
    if found is None:
        return Scored(value.item, None, value.worst, value.best, weight, full)
    return Scored(value.item, found, min(value.worst, found), max(value.best, found), weight, full)


def _names(benchmark: Benchmark, item: Item) -> list[str]:
    """Questions of an item that any measure needs."""
    return list(dict.fromkeys(name for measure in benchmark.measures for name in measure.needs(item)))


def _read_all(benchmark: Benchmark, items: Sequence[Item], given: Given) -> dict[tuple[str, str], list[Reading]]:
    """Strict readings of every question by pass; one that was not answered has the reason why."""
    return {
        (item.key, name): [
            Reading(None, given.reasons.get((item.key, name), NO_REPLY))
            if reply is None
            else benchmark.read(item, name, reply)
            for reply in given.of(item, name)
        ]
        for item in items
        for name in _names(benchmark, item)
    }


def _counts(items: Sequence[Item], readings: Mapping[tuple[str, str], Sequence[Reading]]) -> dict[str, Any]:
    """Items, how many of them are complete, answers that are wanted and read, and why the others are not."""
    failed = [(key, reading.failure) for (key, _), of in readings.items() for reading in of if reading.failure]
    wanted = sum(len(of) for of in readings.values())
    return {
        "items": len(items),
        "complete": len(items) - len({key for key, _ in failed}),
        "answers": wanted,
        "read": wanted - len(failed),
        "not_read": dict(sorted(Counter(reason for _, reason in failed).items())),
    }
