"""A run's weights as one safetensors file, which says itself what they are: to pass on, and to start from.

It holds what a checkpoint holds of weights (all that differ from the named backbones), averaged or as trained, and in
its metadata step, backbones, manifest and the version that wrote it. Optimiser and position are left out: a run cannot
be continued from it. Files of earlier versions open too, under today's names (`mmig.checkpoints.renamed`).
"""

import contextlib
import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mmig import __version__
from mmig.base.files import replacing
from mmig.checkpoints.renamed import is_before_renaming, renamed_model

SUFFIX = ".safetensors"
_ENTRY = "mmig"
"""Entry of the metadata: everything but the weights, as JSON."""


def write_weights(path: Path, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the whole file or nothing.

    Args:
        path: of the file; one that is there is replaced.
        weights: by name.
        facts: plain values: "step", "backbones" and whatever else is worth knowing.
    """
    own = {name: weight.contiguous().clone() for name, weight in weights.items()}  # none may share memory
    with replacing(path) as partial:
        save_file(own, partial, metadata={"format": "pt", _ENTRY: json.dumps({**facts, "version": __version__})})


def read_weights(path: Path) -> dict[str, Any]:
    """What `write_weights` has written, in the form of a checkpoint: the weights under "state_dict", and the facts.

    Raises:
        SafetensorError: the file is damaged.
        ValueError: another program wrote it.
    """
    with safe_open(path, framework="pt") as file:
        facts = json.loads((file.metadata() or {}).get(_ENTRY, "null"))
        if facts is None:
            raise ValueError(
                "it holds weights of something else; only files written by mmig.run.export say what they are"
            )
        if is_before_renaming(facts):
            config = facts["manifest"]["config"]
            config["model"] = renamed_model(config["model"])
        return {"state_dict": {name: file.get_tensor(name) for name in file.keys()}, **facts}  # noqa: SIM118, no dict


def foreign_updates(path: Path) -> Path | None:
    """The file of low-rank updates that diffusers, peft or another program wrote, at `path` or in that folder."""
    for file in (path, *(path / name for name in ("adapter_model.safetensors", "pytorch_lora_weights.safetensors"))):
        if file.suffix != SUFFIX or not file.is_file():
            continue
        with contextlib.suppress(SafetensorError), safe_open(file, framework="pt") as opened:
            own = _ENTRY in (opened.metadata() or {})
            if not own and any("lora" in name.lower() for name in opened.keys()):  # noqa: SIM118, no dict
                return file
    return None
