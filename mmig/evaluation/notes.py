"""What a reader must know beside the numbers of an evaluation, in sentences: on terminal and page, and in tables."""

from collections.abc import Mapping
from typing import Any


def notes(report: Mapping[str, Any]) -> list[str]:
    """Sentences made from metrics.json: published scripts that were reproduced, texts cut, pictures resized."""
    return [*_reproduced(report), *_truncated(report), *_resized(report)]


def _reproduced(report: Mapping[str, Any]) -> list[str]:
    found = []
    for tool in ("clip", "dino"):
        described = report.get(tool) or {}
        preprocessing = described.get("preprocessing") or {}
        if script := preprocessing.get("reproduces"):
            preset, defects = described.get("preset", "custom"), "; ".join(preprocessing["defects"])
            found.append(
                f"{tool.upper()} preprocessing {preset} reproduces {script}, defects included: {defects}. Hold these "
                "numbers only against those of that script."
            )
    return found


def _truncated(report: Mapping[str, Any]) -> list[str]:
    if not (cut := report.get("truncated_texts")):
        return []
    counts = ", ".join(f"{name} {count}" for name, count in cut.items())
    return [f"of {report['num_samples']} samples a text was longer than what reads it: {counts}"]


def _resized(report: Mapping[str, Any]) -> list[str]:
    resized = report.get("resized_pictures") or {}
    if not resized.get("count"):
        return []
    sizes = ", ".join(f"{size} {count}" for size, count in resized["sizes"].items())
    own = [tool.upper() for tool in ("clip", "dino") if _reads_own_size(report.get(tool))]
    but = f"; {' and '.join(own)} read them as they were made" if own else ""
    return [
        f"{resized['count']} edited pictures had another size than their samples' images ({sizes}) and were resized by "
        f"{resized['rule']}{but}"
    ]


def _reads_own_size(described: Mapping[str, Any] | None) -> bool:
    return ((described or {}).get("preprocessing") or {}).get("edited_size") == "own"
