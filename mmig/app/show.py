"""Results as HTML: escaped by the template, and so that the page's own templates find nothing of theirs in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from mmig.app.results import Result
from mmig.app.work import Step

_INERT = str.maketrans({"{": "&#123;", "}": "&#125;", "$": "&#36;", "`": "&#96;"})
"""Gradio reads a component's HTML as a template of JavaScript and Handlebars."""


def _first_map(result: Result) -> int | None:
    return next((part.map for part in result.description if part.map is not None), None)


def _url(path: Path) -> str:
    return f"gradio_api/file={quote(str(path))}"


_environment = Environment(
    loader=PackageLoader("mmig.app"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_environment.globals |= {
    "url": _url,
    "first_map": _first_map,
    "loop_row": lambda rows, value: list(rows).index(value),
}


def _rendered(**given: Any) -> str:
    return _environment.get_template("results.html").render(**given).strip().translate(_INERT)


def cards(results: Sequence[Result]) -> str:
    """Results of one request: of several systems, of several seeds."""
    return _rendered(view="cards", results=results)


def grid(results: Sequence[Result], down: str, rows: Sequence[str], across: str, columns: Sequence[str]) -> str:
    """Results over two settings, row by row; those that are not there yet leave their place empty."""
    seed = results[0].request.seed if results else ""
    names = {"down": down, "across": across, "seed": seed}
    return _rendered(view="grid", results=results, rows=rows, columns=columns, **names)


def history(results: Sequence[Result]) -> str:
    """All results of a visit, the newest first."""
    return _rendered(view="history", results=list(reversed(results)))


def status(text: str, kind: str = "calm", part: float | None = None) -> str:
    """A line about what is going on.

    Args:
        text: a sentence.
        kind: "calm", "busy" or "bad".
        part: how much is done, in [0, 1]; None shows no bar.
    """
    return _rendered(view="status", text=text, kind=kind, part=part)


def progress(step: Step[Result]) -> str:
    """The line while edits are made."""
    text, part, now = "Preparing", float(step.task), step.progress
    if now is not None:
        text = now.what.capitalize()
        if now.count:
            text, part = f"{text}: step {now.done} of {now.count}", step.task + now.done / now.count
        elif now.done:
            text = f"{text}: {now.done} tokens"
    if step.tasks > 1:
        text = f"Edit {step.task + 1} of {step.tasks}. {text}"
    return status(f"{text}.", "busy", min(1.0, part / step.tasks))
