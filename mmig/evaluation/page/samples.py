"""Samples as a page shows them: the pictures of all systems side by side, with what each edit scored."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmig.evaluation.finished import Finished
from mmig.evaluation.page.causes import cause_of
from mmig.evaluation.page.chosen import gains, ranked, scores, some_of_each, split_ranked
from mmig.evaluation.page.found import directions
from mmig.evaluation.page.images import data_uri
from mmig.evaluation.rows import SampleRow

MOST_BROWSED = 48
"""Samples that can be leafed through: a page of pictures of 64 pixels then has some megabytes."""
MOST_VALUES = 4
"""Metrics under each picture."""


def shown_samples(evaluations: Sequence[Finished], keys: Iterable[str], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """What the templates and the browsing script need of some samples; an image is a data URI or None.

    Args:
        evaluations: systems, in the order in which they are shown.
        keys: which samples.
        metrics: names of those that are written under the pictures, the first of them only.
    """
    rows = [_first_pictures(evaluation) for evaluation in evaluations]
    return [_shown(evaluations, rows, key, metrics[:MOST_VALUES]) for key in keys]


def browsed_keys(evaluations: Sequence[Finished], most: int = MOST_BROWSED) -> list[str]:
    """Samples to leaf through: those with a picture of any system, as many of every edit type as possible."""
    types = {
        row.key: row.edit_type
        for evaluation in evaluations
        for row in evaluation.rows
        if evaluation.picture(row.key, row.seed) is not None
    }
    return some_of_each(types, most)


def ranked_groups(
    evaluation: Finished, order: Sequence[str], reference: Finished | None = None
) -> dict[str, list[str]]:
    """Best, median and worst samples with a picture: by value, or by the difference to a reference's.

    Args:
        evaluation: whose samples.
        order: metrics, the later ones for samples that are equal in the earlier ones.
        reference: what values are held against.
    """
    higher = directions(evaluation)
    values = [scores(evaluation.rows, name, higher[name]) for name in order]
    if reference is not None:
        theirs = [scores(reference.rows, name, higher[name]) for name in order]
        values = [gains(ours, other) for ours, other in zip(values, theirs, strict=True)]
    pictured = set(_first_pictures(evaluation))
    return split_ranked([key for key in ranked(values) if key in pictured])


def _first_pictures(evaluation: Finished) -> dict[str, SampleRow]:
    """Of each key the row of the first seed whose picture was kept."""
    found: dict[str, SampleRow] = {}
    for row in evaluation.rows:
        if row.key not in found and evaluation.picture(row.key, row.seed) is not None:
            found[row.key] = row
    return found


def _shown(
    evaluations: Sequence[Finished], rows: Sequence[dict[str, SampleRow]], key: str, metrics: Sequence[str]
) -> dict[str, Any]:
    with_picture = [number for number, of_system in enumerate(rows) if key in of_system]
    keeper = evaluations[with_picture[0]]
    about = rows[with_picture[0]][key]
    originals = {kind: _uri(keeper.original(kind, key)) for kind in ("source", "target")}
    return {
        "key": key,
        "edit_type": about.edit_type,
        "instruction": about.instruction,
        **originals,
        "references": [data_uri(path) for path in keeper.references(key)],
        "systems": [
            _shown_edit(evaluation, of_system.get(key), metrics)
            for evaluation, of_system in zip(evaluations, rows, strict=True)
        ],
    }


def _shown_edit(evaluation: Finished, row: SampleRow | None, metrics: Sequence[str]) -> dict[str, Any]:
    if row is None:
        return {"name": evaluation.name, "image": None, "cause": None, "text": "", "seed": None, "values": []}
    values = [
        {"name": name, "value": "-" if row.values[name] is None else f"{row.values[name]:.3f}"}
        for name in metrics
        if name in row.values
    ]
    return {
        "name": evaluation.name,
        "image": _uri(evaluation.picture(row.key, row.seed)),
        "cause": cause_of(row),
        "text": row.text,
        "seed": row.seed,
        "values": values,
    }


def _uri(path: Path | None) -> str | None:
    return None if path is None else data_uri(path)
