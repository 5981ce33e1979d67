"""Names that earlier versions wrote into files which still open, and today's, under which these are read.

Weights have kept their names. Runs are another matter: those of before `OLDEST_RUNS` are refused, see
`mmig.checkpoints.checkpoint`.
"""

from collections.abc import Mapping
from typing import Any

from packaging.version import Version

OLDEST_RUNS = "0.2"
_SILENT = "0.1.0"
"""The version that did not write its own number."""

MODULES = {
    "mmig.connectors": "mmig.methods.mmig.connectors",
    **{f"mmig.stages.stage{number}.": "mmig.methods.mmig.stages.paper." for number in range(1, 6)},
    "mmig.stages.": "mmig.methods.mmig.stages.",
    "mmig.methods.tiny_backbones.": "experiments.tiny_backbones.",
}
"""Beginning of a dotted name before 0.2 -> now."""
SETTINGS: dict[str, dict[str, str | None]] = {
    "mmig.methods.instruct_pix2pix.": {"loss_weights.noise": "sdm", "latent_memory": None},
    "mmig.methods.latent_diffusion.text_to_image.": {"loss_weights.noise": "sdm", "latent_memory": None},
}
"""Beginning of a class's name, as it is now -> its settings before 0.2, by dotted name -> the last part now.

None: it is gone, and neither weights nor edits depend on it."""


def writer_of(values: Mapping[str, Any]) -> str:
    """Version of mmig that wrote a checkpoint or a file of weights."""
    return values.get("version", _SILENT)


def is_before_renaming(values: Mapping[str, Any]) -> bool:
    """Whether a checkpoint or a file of weights has the names of before 0.2."""
    return Version(writer_of(values)) < Version(OLDEST_RUNS)


def renamed_module(name: str) -> str:
    """Today's name of a module, or of what is in it."""
    for before, now in MODULES.items():
        if name.startswith(before):
            return now + name.removeprefix(before)
    return name


def renamed_model(section: Mapping[str, Any]) -> dict[str, Any]:
    """The `model` section of a configuration under today's names."""
    class_path, arguments = renamed_module(section["class_path"]), section.get("init_args") or {}
    for beginning, names in SETTINGS.items():
        if class_path.startswith(beginning):
            arguments = _renamed(arguments, names)
    return {"class_path": class_path, "init_args": arguments}


def _renamed(settings: Mapping[str, Any], names: Mapping[str, str | None], place: str = "") -> dict[str, Any]:
    result = {}
    for key, value in settings.items():
        now = names.get(place + key, key)
        if now is not None:
            result[now] = _renamed(value, names, f"{place}{key}.") if isinstance(value, Mapping) else value
    return result
