"""An exported folder (`mmig.run.export`) as what a new run starts from: the weights between its backbones.

The backbones themselves a run takes from the folder through its configuration; fingerprints say whether it does.
"""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.named import Origin
from mmig.checkpoints.files import CheckpointError
from mmig.diffusion.saving import WEIGHTS
from mmig.methods.mmig.parts import BACKBONES

CONNECTORS = "connectors"
PLACES = dict.fromkeys(("unet", "vae", "text_encoder", "text_encoder_2"), "") | {
    "llm": "llm",
    "clip_vision": "vision",
    "blip2": "captioner",
}
"""Where a configuration finds each backbone with weights, below the folder."""
_PARTS = BACKBONES["backbones.diffusion"]
NAMES = {"mmsm.": "mmig.mmsm.", "connector.": "mmig.connector.", "adapters.": "mmig.mllm.adapters."}
"""Beginning of a weight's name in the connectors -> in a stage."""


def is_exported(path: str | Path) -> bool:
    """Whether a folder holds a pipeline of MMIG."""
    return (Path(path) / CONNECTORS / "config.json").is_file()


def read_exported(path: str | Path) -> dict[str, Any]:
    """What `mmig.checkpoints.checkpoint.init_weights` takes: weights of connector and adapters, fingerprints of the
    folder's backbones.

    Adapters of a language model that sees no images have learned nothing, and are left out as in a run's checkpoints.

    Raises:
        CheckpointError: the connectors cannot be read.
        BackboneError: a backbone of the folder is broken.
    """
    folder = Path(path)
    try:
        weights = load_file(folder / CONNECTORS / WEIGHTS)
        sees_images = json.loads((folder / CONNECTORS / "config.json").read_text(encoding="utf-8"))["vision_blocks"] > 0
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"cannot read {folder / CONNECTORS}: {error}; export the run again") from error
    named = {
        name.replace(begin, own, 1): value
        for name, value in weights.items()
        for begin, own in NAMES.items()
        if name.startswith(begin) and (sees_images or begin != "adapters.")
    }
    places = {part: folder / place for part, place in PLACES.items() if _has(folder, place, part)}
    backbones = {part: {"path": str(place), "fingerprint": _fingerprint(place, part)} for part, place in places.items()}
    return {"state_dict": named, "step": 0, "backbones": backbones}


def _has(folder: Path, place: str, part: str) -> bool:
    """Whether a part lies there; the denoiser may be a transformer."""
    names = (place,) if place else _PARTS[part].subfolders
    return any((folder / name).is_dir() for name in names)


def _fingerprint(place: Path, part: str) -> str:
    return fingerprint(Origin(str(place), _PARTS[part])) if part in _PARTS else fingerprint(place, part)
