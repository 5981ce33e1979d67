"""What a conversion did: per split what came of the items, what was dropped and why; as JSON and as tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

from datamodules.card import Card
from datamodules.convert.section import Section
from datamodules.convert.source import REASONS_MEANING, Source, WrittenShard

REPORT_FILE = "conversion.json"
_NAMED = 100
"""Items that the report names, a split and reason."""


def build_report(
    source: Source,
    splits: Mapping[str, Sequence[Any]],
    written: Mapping[Section, WrittenShard],
    plan: dict[str, Any],
) -> dict[str, Any]:
    """The report as plain JSON values: a function of source and settings, without times or paths of the output."""
    parts = {split: [shard for section, shard in written.items() if section.split == split] for split in splits}
    return {
        "converter": source.name,
        "plan": plan,
        "splits": {split: _totals(len(splits[split]), shards) for split, shards in parts.items()},
        "findings": [entry for split, shards in parts.items() for entry in _named(split, shards)],
    }


def _totals(items: int, shards: list[WrittenShard]) -> dict[str, Any]:
    rows = [shard.row for shard in shards if shard.row]
    dropped = sum((shard.findings.dropped for shard in shards), Counter())
    kept = sum((shard.findings.kept for shard in shards), Counter())
    counted = sum((shard.findings.counted for shard in shards), Counter())
    return {
        "items": items,
        "samples": sum(row.count for row in rows),
        "shards": len(rows),
        "bytes": sum(row.bytes for row in rows),
        "dropped": dict(sorted(dropped.items())),
        "kept": dict(sorted(kept.items())),
        **({"counted": dict(sorted(counted.items()))} if counted else {}),
    }


def _named(split: str, shards: list[WrittenShard]) -> list[dict[str, Any]]:
    seen: Counter[tuple[str, bool]] = Counter()
    named = []
    for shard in shards:
        for finding in shard.findings.examples:
            seen[finding.reason, finding.dropped] += 1
            if seen[finding.reason, finding.dropped] <= _NAMED:
                named.append({"split": split, **finding._asdict()})
    return named


def card_of(report: Mapping[str, Any], licence: str) -> Card:
    """The card of what was converted; of a conversion by a mapper its facts are the settings."""
    name, parts = report["converter"], report["splits"]
    settings = report["plan"]["settings"]
    maps = name == "map"
    words = ["mmig.run.map", "--config", "CONFIG"] if maps else ["datamodules.convert", name]
    return Card(
        title=f"Samples of {name}" if not maps else "Samples made of samples",
        source="Made of other shards by a mapper." if maps else f"Converted from the published layout of `{name}`.",
        command=["python", "-m", *words, "--source", "SOURCE", "--out", "OUT"],
        counts={split: (part["samples"], part["shards"], part["bytes"]) for split, part in parts.items()},
        facts=settings.get("facts", settings),
        dropped={split: part["dropped"] for split, part in parts.items()},
        licence=licence,
    )


def report_tables(report: dict[str, Any]) -> Group:
    """The report for a terminal: one table of splits and, where anything was dropped or doubtful, one of reasons."""
    totals = Table(title=f"{report['converter']}: converted")
    for name in ("split", "items", "samples", "shards", "MB", "dropped"):
        totals.add_column(name, justify="left" if name == "split" else "right")
    reasons = Table(title="what was found")
    for name in ("split", "reason", "count", "meaning"):
        reasons.add_column(name, justify="right" if name == "count" else "left")
    for split, part in report["splits"].items():
        numbers = (
            part["items"],
            part["samples"],
            part["shards"],
            part["bytes"] // 10**6,
            sum(part["dropped"].values()),
        )
        totals.add_row(split, *(f"{number:,}" for number in numbers))
        for fate in ("dropped", "kept"):
            for reason, count in part[fate].items():
                meaning = REASONS_MEANING[reason.partition(":")[0]]
                reasons.add_row(split, f"{fate}: {reason}", f"{count:,}", meaning)
    return Group(totals, reasons) if reasons.row_count else Group(totals)
