"""The parts of this method that are loaded from folders: generator and CLIP for the loss."""

import torch

from mmig.backbones.clip import OpenClip, load_open_clip
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Backbone, BackboneSettings, Origin, Source, as_backbone, origins
from mmig.backbones.parts import OPEN_CLIP, BackboneError, Part
from mmig.methods.styleclip.generator import StyleGenerator

GENERATOR = Part("generator", "generator", kind_key="_class_name", kinds=("StyleGenerator",))
EDITING_PARTS: BackboneSettings = {"generator": {"generator": GENERATOR}, "clip": {"clip": OPEN_CLIP}}
"""What every way of editing is made of, by setting."""
JUDGE = "clip-eval"
"""Name of the CLIP that only judges."""


def editing_origins(generator: str | Backbone, clip: str | Backbone) -> dict[str, Origin]:
    """Where the parts of an editor come from, by name.

    Raises:
        BackboneError: a mapping that names no backbone.
    """
    return origins(EDITING_PARTS, {"generator": as_backbone(generator), "clip": as_backbone(clip)})


def load_generator(path: Source) -> StyleGenerator:
    """A frozen generator, from a folder that `convert_generator` or an export wrote, or a run of its training.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    generator = load_strictly(StyleGenerator, locate(path, GENERATOR), "float32")
    generator = prepare(generator, frozen=True, gradient_checkpointing=False)
    return generator.to(memory_format=torch.channels_last)  # an inversion is a sixth faster on a processor


def load_loss_clip(path: Source) -> OpenClip:
    """The CLIP that edits follow, frozen.

    Raises:
        BackboneError: a missing or broken file, or the CLIP that judges the edits.
    """
    folder = locate(path, OPEN_CLIP)
    if folder.name == JUDGE:
        where = path.setting if isinstance(path, Origin) else "clip"
        raise BackboneError(
            f"{where}: {folder} judges edits and may not make them; expected another CLIP, such as assets/tiny/clip"
        )
    return load_open_clip(folder)
