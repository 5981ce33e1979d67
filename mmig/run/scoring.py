"""How evaluate.py scores: as a protocol or the data's settings say, and as its options change that."""

import logging
from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from mmig.base.paths import looked_in, resolved
from mmig.evaluation.data import data_section
from mmig.evaluation.settings import ScoringSettings, read_settings
from mmig.metrics.suite import MetricSuite, build_metrics
from mmig.metrics.tools import NEEDS, lacking

logger = logging.getLogger(__name__)


def choose_settings(arguments: Namespace, of_protocol: ScoringSettings | None = None) -> ScoringSettings:
    """Settings of the protocol, or of the data's package, overridden by the command line."""
    settings = _of_data(arguments) if of_protocol is None else replace(of_protocol)
    for name in ("clip", "lpips", "features"):
        if (given := getattr(arguments, name)) is not None:
            chosen, weights = (*given, None)[:2]
            setattr(settings, name, chosen)
            setattr(settings, f"{name}_weights", weights)
    for name in ("metrics", "preprocessing", "judge", "dino", "dino_preprocessing"):
        if getattr(arguments, name) is not None:
            setattr(settings, name, getattr(arguments, name))
    return settings


def _of_data(arguments: Namespace) -> ScoringSettings:
    path = settings_path(data_section(Path(arguments.data))["class_path"])
    if not path.is_file():
        logger.info("no scoring settings for these data: there is no %s%s", path, looked_in(path))
        return ScoringSettings()
    logger.info("scored as %s says", path)
    return read_settings(path)


def settings_path(class_path: str) -> Path:
    """Settings of a datamodule: "datamodules.tinyworld.data.TinyWorldData" -> configs/evaluation/tinyworld.yaml."""
    package = class_path.removeprefix("datamodules.").split(".")[0]
    return resolved(Path("configs/evaluation") / f"{package}.yaml")


def left_out(suite: MetricSuite, names: Iterable[str]) -> list[str]:
    """Which metrics the suite does not score for want of one of `mmig.metrics.tools.NEEDS`, and the option for it."""
    missing = {name: metric for name, metric in build_metrics(names).items() if name not in suite.names}
    wants: dict[str, list[str]] = {need.option: [] for need in NEEDS.values()}
    for name, metric in missing.items():
        for need in lacking(metric, suite.tools.given):
            wants[need.option].append(name)
    return [f"{', '.join(names)} (give {option})" for option, names in wants.items() if names]
