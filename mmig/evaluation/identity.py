"""What decides the results of an evaluation: where two have the same identity, one may go on with the other's edits."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmig.base.versions import package_versions
from mmig.metrics.suite import MetricSuite

BATCHING = ("eval_batch_size", "global_batch_size", "num_workers")
"""Arguments of data that say how many samples are read at once, and no result."""
NO_FACTS = ("command", "required_fields")
"""Entries of metrics.json that say nothing more, or how it was asked for."""
SCORED = ("checkpoint", "config", "editor", "images")
"""Entries of metrics.json that name what was scored, in part by files."""


def identity(
    facts: Mapping[str, Any],
    suite: MetricSuite,
    *,
    seeds: Iterable[int],
    keep_pictures: int,
    data_fingerprint: str | None,
    out: Path,
) -> dict[str, Any]:
    """Facts as values of JSON, equal for a command that gives the same results; ranks and batch sizes do not count.

    Args:
        facts: what metrics.json says of that which is scored, and on what; files that it names count by their sizes and
            times.
        suite: the metrics; their models count by what `describe` says, their fingerprints among it.
        seeds: sampling seeds.
        keep_pictures: of how many samples the pictures are kept.
        data_fingerprint: of the samples' content, where the data have one.
        out: folder of the evaluation, whose own files do not count.
    """
    data = dict(facts["data"])
    arguments = {name: value for name, value in (data.get("init_args") or {}).items() if name not in BATCHING}
    named = {name: facts[name] for name in SCORED if name in facts}
    found = {
        **{name: value for name, value in facts.items() if name not in NO_FACTS},
        "files": {str(path): stamp(path, out) for path in sorted(set(_paths(named)))},
        "data": {"class_path": data.get("class_path"), "init_args": arguments, "fingerprint": data_fingerprint},
        "seeds": list(seeds),
        "keep_pictures": keep_pictures,
        "metrics": suite.describe(),
        "models": suite.tools.describe(),
        "versions": package_versions(),
    }
    return json.loads(json.dumps(found, default=str))


def stamp(path: Path, out: Path) -> str:
    """Hash of the sizes and times of change of a file, or of all in a folder but hidden ones and those of `out`."""
    if path.is_file():
        files = [path]
    else:
        found = (file for file in path.rglob("*") if file.is_file())
        files = sorted(file for file in found if not _is_ours(file, path, out))
    lines = []
    for file in files:
        status = file.stat()
        lines.append((str(file.relative_to(path)), status.st_size, status.st_mtime_ns))
    return hashlib.sha256(repr(lines).encode()).hexdigest()[:16]


def _is_ours(file: Path, folder: Path, out: Path) -> bool:
    """Whether a file below a folder may come from this evaluation, whose own folder may lie there too."""
    inside = out.resolve() != folder.resolve() and file.resolve().is_relative_to(out.resolve())
    return inside or any(part.startswith(".") for part in file.relative_to(folder).parts)


def _paths(value: Any) -> Iterator[Path]:
    """Files and folders that are named anywhere in values of YAML."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)
    elif isinstance(value, str) and value and os.path.exists(value):  # False too for what can be no path
        yield Path(value)
