"""The card of a folder of shards, README.md: what is in it, where it is from, under which licence, what made it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from datamodules.shard_index import ShardInfo, replace_file

CARD_FILE = "README.md"
UNKNOWN = "unknown"
NO_LICENCE = "None was given here: that of the source holds, and whoever hands this on has to look it up."


@dataclass(frozen=True)
class Card:
    """What a card says.

    Attributes:
        title: of the folder. source: where the samples are from, in a sentence.
        command: words of the command that makes such a folder.
        counts: split ("" for the folder itself) -> samples, shards, bytes.
        facts: what the samples depend on beside the source.
        dropped: split -> reason -> how many entries were left out.
        licence: of the samples, as its source or the user states it; "" where nobody did.
    """

    title: str
    source: str
    command: Sequence[str]
    counts: Mapping[str, tuple[int, int, int]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    licence: str = ""

    def text(self) -> str:
        """Markdown, under the hub's metadata."""
        metadata = {"license": self.licence or UNKNOWN, "tags": ["mmig", "webdataset"]}
        counts = [
            (split or "this folder", f"{samples:,}", str(shards), f"{size / 1e6:,.1f}")
            for split, (samples, shards, size) in self.counts.items()
        ]
        dropped = [
            (split or "this folder", reason, f"{count:,}")
            for split, of_split in self.dropped.items()
            for reason, count in of_split.items()
        ]
        sections = [
            f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# {self.title}",
            self.source,
            _table(("split", "samples", "shards", "MB"), counts),
            "Tar files, an `index.json` and a small `.idx` a shard; `python -m datamodules.shards verify` checks them.",
            f"## Licence\n\n{self.licence or NO_LICENCE}",
            f"## Made by\n\n```\n{shlex.join(self.command)}\n```",
        ]
        if self.facts:
            sections.append(_table(("setting", "value"), [(name, _said(value)) for name, value in self.facts.items()]))
        if dropped:
            sections.append("## Left out\n\n" + _table(("split", "reason", "entries"), dropped))
        return "\n\n".join(sections) + "\n"


def totals(rows: Sequence[ShardInfo]) -> tuple[int, int, int]:
    """Samples, shards and bytes of the rows of an index."""
    return sum(row.count for row in rows), len(rows), sum(row.bytes for row in rows)


def write_card(directory: Path, card: Card) -> None:
    """Write the card of a folder, unless a README.md is there: what somebody wrote stays."""
    if not (directory / CARD_FILE).exists():
        replace_file(directory / CARD_FILE, card.text().encode())


def _said(value: Any) -> str:
    """A setting for readers elsewhere, in a row of a table: an absolute path is its last part only."""
    text = str(value)
    text = Path(text).name if Path(text).is_absolute() else text
    return text.replace("|", "\\|").replace("\n", " ")


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, tuple("---" for _ in head), *rows))
