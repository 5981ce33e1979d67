"""The pretrained parts that a method names: which of its settings give them, and where each of them comes from."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmig.backbones.parts import PARTS, BackboneError, Part

BackboneSettings = Mapping[str, Mapping[str, Part]]
"""Setting of a method, by its dotted name below init_args -> the parts that are loaded from it, by backbone's name.

Of two settings that give the same backbone the later one wins where it is given: a UNet named apart takes the place of
its pipeline's, and so do sizes of a fresh one, which comes from nowhere.
"""


@dataclass(frozen=True)
class Backbone:
    """A pretrained part as a configuration names it; a string alone is its path.

    Attributes:
        path: hub id or local folder, the part's own one or a pipeline's root; or a run, a checkpoint, an exported
            folder or a `.safetensors` file of ours that holds the part.
        part: which part of it, by its name in `mmig.backbones.parts`; None: the one that the setting stands for.
    """

    path: str
    part: str | None = None


@dataclass(frozen=True)
class Origin:
    """Where a backbone comes from; every loader takes one in place of a path.

    Attributes:
        path: see `Backbone`.
        part: what is loaded from there.
        setting: that names it.
    """

    path: str
    part: Part
    setting: str = ""


Source = str | Path | Origin
"""What a loader loads from: hub id, folder, or a backbone's origin, which then says which part it is."""


def as_backbone(value: Any, setting: str = "") -> Backbone | None:
    """The backbone that the value of a setting names; None where it names none (nothing, or sizes of a fresh model).

    Raises:
        BackboneError: a mapping with a path and something else than a part.
    """
    if value is None or isinstance(value, Backbone):
        return value
    if isinstance(value, str | Path):
        return Backbone(str(value))
    if isinstance(value, Mapping) and "path" in value:
        if unknown := sorted(value.keys() - {"path", "part"}):
            raise BackboneError(f"{setting}: expected path and part of a backbone, found {unknown[0]!r} beside them")
        return Backbone(value["path"], value.get("part"))
    return None


def origins(table: BackboneSettings, settings: Any) -> dict[str, Origin]:
    """Every backbone that a method's settings name, by its name; of a pipeline, the parts that it holds.

    Args:
        table: of the method.
        settings: its arguments by name, as values of a configuration or as objects.

    Raises:
        BackboneError: a part that nobody knows, or one given for a setting from which several parts are loaded.
    """
    from mmig.backbones.hub import holds  # which needs this module

    found: dict[str, Origin] = {}
    for setting, parts in table.items():
        value = setting_value(settings, setting)
        backbone = as_backbone(value, setting)
        if backbone is not None:
            chosen = parts if backbone.part is None else _with_part(parts, backbone.part, setting, table)
            held = {name: part for name, part in chosen.items() if holds(backbone.path, part)}
            found |= {name: Origin(backbone.path, part, setting) for name, part in held.items()}
        elif value is not None:
            found = {name: origin for name, origin in found.items() if name not in parts}
    return found


def setting_value(settings: Any, setting: str) -> Any:
    """Value of a setting by its dotted name, through mappings and objects; None where one of them is not there."""
    value = settings
    for name in setting.split("."):
        value = value.get(name) if isinstance(value, Mapping) else getattr(value, name, None)
        if value is None:
            return None
    return value


def _with_part(parts: Mapping[str, Part], name: str, setting: str, table: BackboneSettings) -> dict[str, Part]:
    known = PARTS | {part.name: part for own in table.values() for part in own.values()}
    if name not in known:
        raise BackboneError(f"{setting}.part: no part {name!r}; expected one of {', '.join(sorted(known))}")
    if len(parts) > 1:
        raise BackboneError(
            f"{setting}.part: {', '.join(parts)} are loaded from this setting, so that no one part can be named; "
            "leave it out"
        )
    return dict.fromkeys(parts, known[name])
