"""How a data set is scored: which metrics, with which models and which judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from mmig.base.paths import resolved
from mmig.metrics.clip_encoder import load_encoder
from mmig.metrics.dino_encoder import load_dino
from mmig.metrics.judge import load_judge
from mmig.metrics.lpips import load_lpips
from mmig.metrics.set_features import SHARED, load_features
from mmig.metrics.suite import MetricSuite, build_metrics, computable
from mmig.metrics.tools import NEEDS, readable


class SettingsError(ValueError):
    """A YAML of data or of evaluation settings cannot be used."""


@dataclass
class ScoringSettings:
    """How to score a data set; `configs/evaluation/NAME.yaml` holds it for the package datamodules.NAME.

    Attributes:
        metrics: names of `mmig.metrics.suite.METRICS`, or class paths of further ones; empty means all of the former
            that encoder and judge allow.
        clip: open_clip model name or local folder; None leaves the CLIP metrics out.
        clip_weights: pretrained tag of open_clip; None for a local folder.
        preprocessing: a preset of `mmig.metrics.preprocess`.
        judge: class path of the judge; None leaves success and preservation out.
        dino: folder or hub id of an image transformer; None leaves the DINO metrics out.
        dino_preprocessing: a preset of `mmig.metrics.dino_encoder`.
        lpips: "alex", "vgg" or "squeeze"; None leaves LPIPS out.
        lpips_weights: file of that backbone's weights; None for the one in torch's cache.
        features: what FID and KID compare, see `mmig.metrics.set_features.load_features`; None leaves them out.
        features_weights: file of the weights of a model of its own; None for the one in torch's cache.
    """

    metrics: list[str] = field(default_factory=list)
    clip: str | None = None
    clip_weights: str | None = None
    preprocessing: str = "default"
    judge: str | None = None
    dino: str | None = None
    dino_preprocessing: str = "default"
    lpips: str | None = None
    lpips_weights: str | None = None
    features: str | None = None
    features_weights: str | None = None


def read_settings(path: Path) -> ScoringSettings:
    """Settings from a YAML file, see `resolved`.

    Raises:
        SettingsError: for a file that cannot be read or an unknown key.
    """
    values = read_yaml(path)
    known = [item.name for item in fields(ScoringSettings)]
    if unknown := values.keys() - set(known):
        raise SettingsError(f"{path}: unknown key {min(unknown)!r}; expected {', '.join(known)}")
    return ScoringSettings(**values)


def build_suite(
    settings: ScoringSettings, device: torch.device | str = "cpu", declared: Sequence[str] = ()
) -> MetricSuite:
    """The metrics of the settings, with the encoders that they need and the judge.

    Args:
        settings: how the data are scored.
        device: where metrics and encoders are.
        declared: metrics of the method's own, scored beside them where encoders and judge allow.

    Raises:
        ValueError: for an unknown metric, or an unusable model or judge.
    """
    judge = None if settings.judge is None else load_judge(settings.judge)
    given = named_tools(settings) | readable(judge)
    names = settings.metrics or computable(given)
    names = [*names, *computable(given, declared)]
    needed = {need for metric in build_metrics(names).values() for need in metric.needs}
    if "features" in needed and settings.features in SHARED:
        if settings.features not in given:
            shared = settings.features
            raise SettingsError(f"features: {shared!r} are those of {NEEDS[shared].option}; give that too")
        needed.add(settings.features)
    encoders = {name: load(settings, device) for name, load in _LOADERS.items() if name in needed & given}
    return MetricSuite(names, encoders.pop("clip", None), judge, **encoders).to(device)


_LOADERS: dict[str, Callable[[ScoringSettings, torch.device | str], Any]] = {
    "clip": lambda given, device: load_encoder(given.clip, given.clip_weights, given.preprocessing, device),
    "dino": lambda given, device: load_dino(given.dino, given.dino_preprocessing, device),
    "lpips": lambda given, device: load_lpips(given.lpips, given.lpips_weights, device),
    "features": lambda given, device: load_features(given.features, given.features_weights, device),
}


def named_tools(settings: ScoringSettings) -> set[str]:
    """Which of `mmig.metrics.tools.NEEDS` the settings name, loaded or not."""
    return {name for name in NEEDS if getattr(settings, name, None) is not None}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; a relative path is looked up as `resolved` does.

    Raises:
        SettingsError: for a missing file, broken YAML, or something else than a mapping.
    """
    try:
        values = yaml.safe_load(resolved(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror}); expected a YAML file") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a mapping, found {type(values).__name__}")
    return values
