"""Which samples a page shows: the best, median and worst by a rule, and some of every edit type to leaf through."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from mmig.evaluation.rows import SampleRow, by_key

TIES = ("clip_directional_similarity", "ssim_target", "clip_image_similarity_target")
"""Metrics that order samples of one value, as a judge gives to many; higher is better in all of them."""


def ranked(values: Sequence[Mapping[str, float]]) -> list[str]:
    """Keys with a value in the first mapping, best first; ties by the next mapping and so on, then by key.

    Args:
        values: key -> value, higher is better; a key that a later one lacks comes after those that it has.
    """
    return sorted(
        values[0],
        key=lambda key: (*(-of_metric.get(key, float("-inf")) for of_metric in values), key),
    )


def split_ranked(keys: Sequence[str], most: int = 3) -> dict[str, list[str]]:
    """Best, median and worst of ranked keys, disjoint: `most` each, fewer where there are not three times as many.

    One key is the best, two are the best and the worst. Where the median ones cannot be centred they are the better.
    """
    if len(keys) < 3:
        return {"best": list(keys[:1]), "median": [], "worst": list(keys[1:])}
    size = min(most, len(keys) // 3)
    start = (len(keys) - size) // 2
    return {"best": list(keys[:size]), "median": list(keys[start : start + size]), "worst": list(keys[-size:])}


def scores(rows: Sequence[SampleRow], metric: str, higher_is_better: bool) -> dict[str, float]:
    """Key -> value where higher is better, seeds averaged."""
    sign = 1.0 if higher_is_better else -1.0
    return {key: sign * value for key, value in by_key(rows, metric).items()}


def gains(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    """By how much our value is higher, of every key that both have."""
    return {key: ours[key] - theirs[key] for key in ours.keys() & theirs.keys()}


def some_of_each(types: Mapping[str, str], most: int) -> list[str]:
    """Up to `most` keys, as many of every edit type as possible, in the order of type and key.

    Args:
        types: key -> edit type.
    """
    places: dict[str, int] = {}
    seen: dict[str, int] = defaultdict(int)
    for key in sorted(types):
        places[key] = seen[types[key]]
        seen[types[key]] += 1
    chosen = sorted(types, key=lambda key: (places[key], types[key], key))[:most]
    return sorted(chosen, key=lambda key: (types[key], key))
