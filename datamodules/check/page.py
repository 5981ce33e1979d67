"""Studies of splits -> one page to look at, as `datamodules.browse` makes it: what is not right, in pictures, and some
samples of each split.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from datamodules.browse.charts import escape
from datamodules.browse.page import card, head
from datamodules.check.study import Study
from datamodules.check.verdict import NOTES, Finding
from datamodules.faults import REASONS

_SIGNS = {"fine": "", "look": "look", "stops": "stops a training"}


def page(title: str, told: Mapping[str, Sequence[Finding]], studies: Mapping[str, Study]) -> Iterator[str]:
    """The page in pieces.

    Args:
        title: what was looked at. told: findings by split. studies: of those splits of which samples were read.
    """
    yield head(title)
    for split, findings in told.items():
        heads = "".join(f"<th>{name}</th>" for name in ("What", "", "Found", "Advice"))
        yield f'<h2>{escape(split)}</h2><div class="wide"><table><tr>{heads}</tr>'
        for finding in findings:
            yield (
                f"<tr><td>{escape(finding.name)}</td><td><b>{_SIGNS[finding.state]}</b></td>"
                f"<td>{escape(finding.found)}</td><td>{escape(finding.advice)}</td></tr>"
            )
        yield "</table></div>"
        if split in studies:
            yield from _faults(studies[split])
            yield from _noted(studies[split])
            yield from _shown(split, studies[split])
    yield "</body></html>\n"


def _faults(study: Study) -> Iterator[str]:
    """Samples that cannot be used, by reason; there is no picture of them."""
    for reason, faults in study.survey.examples.items():
        yield f"<h3>{escape(reason)}: {escape(REASONS.get(reason, ''))}</h3><ul>"
        for fault in faults:
            words = f"{escape(fault['shard'])}: {escape(fault['detail'][:300])}"
            yield f"<li>{escape(fault['key'])} <small>{words}</small></li>"
        yield "</ul>"


def _noted(study: Study) -> Iterator[str]:
    """The first samples of each thing that is noted."""
    for note, examples in study.examples.items():
        yield f'<h3>{study.noted[note]:,} samples {escape(NOTES[note][1])}</h3><section class="grid">'
        for shown, words in examples:
            yield f"<div><small>{escape(words)}</small>{card(shown)}</div>"
        yield "</section>"


def _shown(split: str, study: Study) -> Iterator[str]:
    if study.cards:
        yield f"<h3>{len(study.cards)} samples of {escape(split)}, drawn with seed {study.seed}</h3>"
        yield '<section class="grid">'
        yield from map(card, study.cards)
        yield "</section>"
