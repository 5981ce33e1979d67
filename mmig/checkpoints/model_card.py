"""The model card of an exported run: data, steps, losses, scores, backbones and their licences, how to use it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmig.backbones.hub import is_hub_id, split_revision
from mmig.base.paths import resolved

UNKNOWN = "not known here; see its source"
OPEN_RAIL, LLAMA = "CreativeML Open RAIL-M", "LLaMA licence of Meta (research, not commercial)"
LICENCES = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": OPEN_RAIL,
    "runwayml/stable-diffusion-v1-5": OPEN_RAIL,
    "CompVis/stable-diffusion-v1-4": OPEN_RAIL,
    "timbrooks/instruct-pix2pix": f"MIT; its base Stable Diffusion 1.5: {OPEN_RAIL}",
    "huggyllama/llama-7b": LLAMA,
    "huggyllama/llama-13b": LLAMA,
    "lmsys/vicuna-7b-v1.5": "Llama 2 Community License",
    "openai/clip-vit-large-patch14": "MIT (of OpenAI's CLIP repository)",
    "Salesforce/blip2-opt-2.7b": "MIT; its OPT: OPT licence of Meta (research, not commercial)",
}
"""Licences of published backbones, as their authors state them."""


@dataclass(frozen=True)
class CardFacts:
    """What a model card is written from.

    Attributes:
        name: of the exported folder.
        about: what the method is and how the folder is used, in markdown.
        task: what the folder does, in the hub's words; "" where it is no pipeline.
        run: name of the run.
        step: steps it has taken.
        averaged: whether the weights are its averaged ones.
        config: its config.yaml.
        losses: weight of each loss term.
        backbones: hub id or folder of each pretrained part.
        report: its evaluation/metrics.json; None without one.
    """

    name: str
    about: str
    task: str
    run: str
    step: int
    averaged: bool
    config: Mapping[str, Any]
    losses: Mapping[str, float]
    backbones: Mapping[str, str]
    report: Mapping[str, Any] | None


def model_card(facts: CardFacts) -> str:
    """README.md of an exported folder: hub metadata, then markdown."""
    metadata: dict[str, Any] = {"library_name": "diffusers"} | ({"pipeline_tag": facts.task} if facts.task else {})
    metadata |= {"license": "other", "tags": ["mmig", "image-editing", "diffusers"]}
    sections = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n\n# {facts.name}",
        facts.about,
        _training(facts),
        _scores(facts.report),
        _backbones(facts.backbones),
    ]
    return "\n\n".join(sections) + "\n"


def licence_of(path: str) -> str:
    """Licence of a backbone: of a hub id by name, of a folder by the README beside or above it."""
    repo = split_revision(path)[0]
    if repo in LICENCES:
        return LICENCES[repo]
    if is_hub_id(path):
        return UNKNOWN
    folder = resolved(path)
    for readme in (folder / "README.md", folder.parent / "README.md"):
        if readme.is_file():
            found = re.search(r"^licen[cs]e: *([^\n]+)|\bLicence: ([^.\n]+)", readme.read_text(encoding="utf-8"), re.M)
            if found:
                return (found[1] or found[2]).strip()
    return UNKNOWN


def shown(value: Any) -> str:
    """A value of a config for readers elsewhere: an absolute path is its last part only."""
    text = str(value)
    return Path(text).name if Path(text).is_absolute() else text


def _training(facts: CardFacts) -> str:
    model, data = facts.config["model"], facts.config.get("data") or {}
    weights = "averaged (EMA)" if facts.averaged and facts.config.get("ema") else "as trained"
    losses = ", ".join(f"{name} {weight:g}" for name, weight in facts.losses.items())
    rows = {
        "method": model["class_path"],
        "run": facts.run,
        "steps": f"{facts.step:,}",
        "weights": weights,
        "losses and their weights": losses,
        "data": data.get("class_path", "not in the run's config"),
    }
    rows |= {
        f"data: {name}": shown(value)
        for name, value in (data.get("init_args") or {}).items()
        if isinstance(value, str | int | float) and not isinstance(value, bool)
    }
    return "## Training\n\n" + _table(("", ""), [(name, value) for name, value in rows.items()])


def _scores(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return "## Scores\n\nNot evaluated: the run has no evaluation/metrics.json."
    rows = []
    for name, metric in report.get("metrics", {}).items():
        if metric["value"] is not None:
            interval = "-" if metric["low"] is None else f"[{metric['low']:.4f}, {metric['high']:.4f}]"
            rows.append((name, f"{metric['value']:.4f}", interval, str(metric["n"])))
    about = (
        f"On the {report.get('split', '?')} split, {report.get('num_samples', '?')} samples, seeds "
        f"{report.get('seeds', '?')}, responses {report.get('response_source', '?')}; "
        f"checkpoint {Path(str(report.get('checkpoint', '?'))).name}, weights {report.get('weights', '?')}."
    )
    return f"## Scores\n\n{about}\n\n" + _table(("metric", "mean", "95 % interval", "n"), rows)


def _backbones(backbones: Mapping[str, str]) -> str:
    if not backbones:
        return "## Backbones\n\nNone: all weights are of this run."
    rows = [(part, shown(path), licence_of(path)) for part, path in backbones.items()]
    note = "The folder holds their weights too, trained or not: their licences hold for it."
    return f"## Backbones\n\n{note}\n\n" + _table(("part", "from", "licence"), rows)


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
