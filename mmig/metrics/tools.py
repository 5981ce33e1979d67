"""What metrics read beside the batch and the edited images: encoders and a judge, each of which an option gives."""

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.dino_encoder import DinoEncoder
from mmig.metrics.judge import Judge, can_read
from mmig.metrics.lpips import Lpips
from mmig.metrics.set_features import NetworkFeatures, SharedFeatures

if TYPE_CHECKING:
    from mmig.metrics.base import Declared


class MetricInputError(ValueError):
    """A metric needs something that this evaluation was not given (a CLIP encoder, a judge)."""


@dataclass(frozen=True)
class Need:
    """Something that a metric may need: in words, and the option of evaluate.py that gives it."""

    what: str
    option: str


NEEDS: dict[str, Need] = {
    "clip": Need("a CLIP encoder", "--clip NAME [WEIGHTS]"),
    "judge": Need("a judge", "--judge CLASS_PATH"),
    "reader": Need("a judge that reads texts", "a --judge CLASS_PATH with a method `text`"),
    "dino": Need("a DINO model", "--dino FOLDER_OR_HUB_ID"),
    "lpips": Need("an LPIPS network", "--lpips NAME [WEIGHTS]"),
    "features": Need("features of images", "--features NAME [WEIGHTS]"),
}
"""By name; a metric that needs NAME says so with `needs_NAME = True`."""


@dataclass(frozen=True)
class Tools:
    """What there is of it; None where it was not given."""

    clip: ClipEncoder | None = None
    judge: Judge | None = None
    dino: DinoEncoder | None = None
    lpips: Lpips | None = None
    features: SharedFeatures | NetworkFeatures | None = None

    @property
    def encoders(self) -> dict[str, Any]:
        """All but the judge, by name; each can describe itself for metrics.json."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "judge"}

    def describe(self) -> dict[str, Any]:
        """For metrics.json: what each encoder says of itself and the class of the judge, by name; None where absent."""
        described = {name: None if tool is None else tool.describe() for name, tool in self.encoders.items()}
        judge = None if self.judge is None else f"{type(self.judge).__module__}.{type(self.judge).__qualname__}"
        return {**described, "judge": judge}

    @property
    def given(self) -> set[str]:
        """Names from `NEEDS`."""
        return {name for name in NEEDS if getattr(self, name, None) is not None} | readable(self.judge)


def readable(judge: Judge | None) -> set[str]:
    """The name of what a judge gives beside itself, from `NEEDS`."""
    return {"reader"} if can_read(judge) else set()


def lacking(metric: "Declared", given: Collection[str]) -> list[Need]:
    """What a metric needs that was not given; "judge" alone where there is none that could read either."""
    missing = [name for name in metric.needs if name not in given]
    return [NEEDS[name] for name in missing if name != "reader" or "judge" not in missing]


def check_given(metric: "Declared", given: Collection[str]) -> None:
    """Refuse a metric that cannot be computed.

    Raises:
        MetricInputError: naming the metric, what it needs and the option that gives it.
    """
    for need in lacking(metric, given):
        raise MetricInputError(f"metric {metric.name!r} needs {need.what}; give {need.option}")
