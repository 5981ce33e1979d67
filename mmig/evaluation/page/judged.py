"""The page of a judged benchmark: tables, the official script's defects, and the judge's replies beside pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import UnidentifiedImageError

from mmig.evaluation.page.build import page_environment
from mmig.evaluation.page.chosen import some_of_each
from mmig.evaluation.page.images import data_uri
from mmig.evaluation.page.tables import Grid

if TYPE_CHECKING:
    from mmig.evaluation.judged.items import Item

MOST_SHOWN = 48
"""Items whose pictures and replies are on the page."""
MOST_FAILED = 12
"""Items with replies that gave no scores, shown before the others."""


def render_judged(
    results: Mapping[str, Any],
    sentences: Sequence[str],
    tables: Sequence[tuple[str, Grid]],
    defects: Sequence[Mapping[str, Any]],
    items: Sequence["Item"],
    rows: Sequence[Mapping[str, Any]],
) -> str:
    """The page; every value is escaped by the template.

    Args:
        results: of `aggregate`, with what it depends on.
        sentences: what must be known.
        tables: with titles.
        defects: of the official script, with how often each acted; [] in mode "corrected".
        items: of the benchmark.
        rows: of judge.jsonl.
    """
    by_item: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_item.setdefault(row["item"], []).append(row)
    pictured = [item for item in items if item.edited.is_file() and item.key in by_item]
    failed = [item for item in pictured if any(row["failure"] for row in by_item[item.key])][:MOST_FAILED]
    chosen = set(some_of_each({item.key: item.kind for item in pictured}, MOST_SHOWN))
    others = [item for item in pictured if item.key in chosen and item not in failed]
    return (
        page_environment()
        .get_template("judged.html")
        .render(
            results=results,
            sentences=sentences,
            tables=tables,
            defects=defects,
            failed=[_shown(item, by_item[item.key]) for item in failed],
            shown=[_shown(item, by_item[item.key]) for item in others],
            num_pictured=len(pictured),
            facts={name: value for name, value in results.items() if name not in ("measures", "command")},
        )
    )


def _shown(item: "Item", rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    named = [("source", path) for path in item.sources] + [("edited", item.edited)]
    return {
        "key": item.key,
        "kind": item.kind,
        "instruction": item.instruction,
        "pictures": [{"name": name, "uri": _uri(path)} for name, path in named],
        "replies": [
            {
                "question": row["question"] + (f", pass {row['pass'] + 1}" if row["pass"] else ""),
                "reply": row["reply"],
                "scores": None if row["scores"] is None else ", ".join(f"{score:g}" for score in row["scores"]),
                "failure": row["failure"],
            }
            for row in rows
        ],
    }


def _uri(path: Path) -> str | None:
    """The picture; None where there is none that can be read, which the replies say."""
    try:
        return data_uri(path)
    except (OSError, UnidentifiedImageError):
        return None
