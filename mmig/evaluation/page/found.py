"""What evaluations found, in sentences made from their numbers: no more is said than the intervals allow."""

from collections.abc import Mapping, Sequence

from mmig.evaluation.bootstrap import Interval
from mmig.evaluation.finished import Finished
from mmig.evaluation.summary import interval_of

SHARES = ("joint", "success", "preservation", "response_accuracy", "caption_accuracy")
"""Metrics that are 0 or 1 of a sample: sentences give them in per cent."""
PRIMARY = ("joint", "clip_directional_similarity", "success")
"""What a page is about: the first of these that every evaluation has, else its first metric."""

FEW = 30
"""Below so many samples intervals come with a warning."""


def common_metrics(evaluations: Sequence[Finished]) -> list[str]:
    """Metrics that all evaluations have a value of, in the order of the first."""
    return [
        name
        for name in evaluations[0].report["metrics"]
        if all(each.report["metrics"].get(name, {}).get("n") for each in evaluations)
    ]


def primary_metric(metrics: Sequence[str]) -> str | None:
    """The measure that the page is about; None where nothing was measured."""
    return next((name for name in (*PRIMARY, *metrics) if name in metrics), None)


def spoken(interval: Interval, metric: str, signed: bool = False) -> str:
    """Value, bounds and n of one metric: "41.2 % [37.3, 45.1], n = 600"; differences of shares are in points."""
    sign = "+" if signed else ""
    if metric in SHARES:
        unit = "\u00a0points" if signed else "\u00a0%"  # no line may end between a number and its unit
        return f"{100 * interval.value:{sign}.1f}{unit} {interval.bounds(f'{sign}.1f', 100)}, n = {interval.n}"
    return f"{interval.told(f'{sign}.3f')}, n = {interval.n}"


def without_bounds(evaluations: Sequence[Finished]) -> list[Finished]:
    """Those that are neither floor nor ceiling; all where there are no others."""
    return [evaluation for evaluation in evaluations if not evaluation.role] or list(evaluations)


def describe_bounds(evaluations: Sequence[Finished], metric: str | None) -> list[str]:
    """A sentence about what floors and ceilings among several evaluations reach, none where there are none."""
    reached = [
        f"{evaluation.name} ({evaluation.role}) {spoken(interval_of(evaluation.report['metrics'][metric]), metric)}"
        for evaluation in evaluations
        if metric is not None and evaluation.role and metric in common_metrics([evaluation])
    ]
    return [f"For comparison, {metric}: {'; '.join(reached)}."] if reached and len(evaluations) > 1 else []


def describe_one(evaluation: Finished) -> list[str]:
    """Sentences about one evaluation."""
    found = {name: interval_of(value) for name, value in evaluation.report["metrics"].items() if value["n"]}
    primary = primary_metric(list(found))
    if primary is None:
        return [f"No sample of {evaluation.name} has a value of any metric."]
    value = spoken(found[primary], primary)
    if primary != "joint":
        told = [f"{evaluation.name}: {primary} is {value}."]
        if not {"success", "preservation"} & found.keys():
            told.append("No judge was there, so nothing says whether an edit is the one that was asked for.")
        return [*told, *limits(found[primary])]
    parts = [f"{name} {spoken(found[name], name)}" for name in ("success", "preservation") if name in found]
    more = f" Taken alone: {'; '.join(parts)}." if parts else ""
    told = f"{evaluation.name} makes the edit and leaves the rest as it was (joint) in {value}.{more}"
    return [told, *limits(found[primary])]


def describe_difference(name: str, reference: str, metric: str, difference: Interval, higher_is_better: bool) -> str:
    """A sentence about a paired difference, `name` minus `reference`."""
    value = spoken(difference, metric, signed=True)
    if not difference.is_known:
        return f"Of {name} and {reference} one common sample has {metric}, which shows nothing: {value}."
    if difference.excludes_zero:
        better = (difference.value > 0) == higher_is_better
        return f"{name} is {'better' if better else 'worse'} than {reference} in {metric}: {value}."
    if difference.low == difference.high == 0:
        return f"{name} and {reference} are alike in {metric} on every sample, n = {difference.n}."
    return (
        f"No difference in {metric} between {name} and {reference} is shown: {value}; anything within these bounds "
        "remains possible."
    )


def by_chance(intervals: Sequence[Interval], level: float) -> str:
    """How many of some intervals exclude zero, and how many would if nothing differed."""
    known = [interval for interval in intervals if interval.is_known]
    excluded = sum(interval.excludes_zero for interval in known)
    return (
        f"{excluded} of {len(known)} intervals (no floor's, no ceiling's) exclude zero; each is taken alone, so that "
        f"about {(1 - level) * len(known):.1f} would where nothing differs."
    )


def directions(evaluation: Finished) -> Mapping[str, bool]:
    """Metric name -> whether higher is better."""
    return {name: value.get("higher_is_better", True) for name, value in evaluation.report["metrics"].items()}


def limits(interval: Interval, of: str = "another training of the same system") -> list[str]:
    """What an interval over samples does not tell."""
    if not interval.is_known:
        return ["One sample tells nothing about others."]
    few = [f"Of n = {interval.n} samples a bootstrap interval is too narrow: read it as a hint."]
    over_samples = f"The interval is over samples: {of} may differ by more."
    return [*(few if interval.n < FEW else []), over_samples]
