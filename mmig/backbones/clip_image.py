"""CLIP's image side as one vector a picture: its tower, the projection behind it, and how it wants its pixels."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmig.backbones.files import read_json
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import CLIP_VISION
from mmig.base.files import write_json

PREPROCESSOR = "preprocessor_config.json"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""Those of every published CLIP; they hold where the folder says nothing."""


class ClipImageEncoder(nn.Module):
    """Pictures -> CLIP image embeddings.

    Args:
        tower: `CLIPVisionModelWithProjection`, or `CLIPVisionModel` for the class token before the projection.
        mean, std: of the normalisation, for pictures in [0,1].
    """

    def __init__(
        self, tower: nn.Module, mean: tuple[float, ...] = CLIP_MEAN, std: tuple[float, ...] = CLIP_STD
    ) -> None:
        super().__init__()
        self.tower, self.mean, self.std = tower, tuple(mean), tuple(std)

    @property
    def projects(self) -> bool:
        """Whether the embedding is behind the projection, as CLIP compares it with texts."""
        return hasattr(self.tower, "visual_projection")

    @property
    def width(self) -> int:
        """D of the embeddings."""
        return self.tower.config.projection_dim if self.projects else self.tower.config.hidden_size

    @property
    def pixels(self) -> str:
        """What becomes of pictures before the tower, as a fact that cached embeddings depend on."""
        return f"{self.tower.config.image_size} px, mean {self.mean}, std {self.std}"

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [N,D], as they come out of the tower, not brought to length 1.

        Args:
            images: float [N,3,H,W] in [-1,1]; of another size than the tower's they are squashed to it, bicubic.
        """
        dtype, side = self.tower.dtype, self.tower.config.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True)
        mean, std = (images.new_tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        found = self.tower(pixel_values=(((images + 1) / 2 - mean) / std).to(dtype))
        return found.image_embeds if self.projects else found.pooler_output

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write tower and normalisation, for `load_clip_image`; options as of transformers."""
        self.tower.save_pretrained(folder, **options)
        side = self.tower.config.image_size
        size = {"height": side, "width": side}
        entries = {"image_processor_type": "CLIPImageProcessor", "do_center_crop": False, "size": size}
        means = {"image_mean": list(self.mean), "image_std": list(self.std)}
        write_json(Path(folder) / PREPROCESSOR, {**entries, "crop_size": size, **means})


def load_clip_image(
    path: Source, *, projected: bool = True, dtype: torch.dtype | str = torch.float32
) -> ClipImageEncoder:
    """CLIP's image encoder, frozen; a whole CLIP's folder serves too.

    Args:
        path: hub id or folder, such as openai/clip-vit-large-patch14.
        projected: False takes the normalised class token as it is, of a tower that was saved without its projection.
        dtype: of the weights.

    Raises:
        BackboneError: a missing or broken file, another model in that folder, or no projection.
    """
    from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

    folder = locate(path, CLIP_VISION)
    text_side = r"text_model\.|text_projection\.|logit_scale"
    if projected:
        tower = load_strictly(CLIPVisionModelWithProjection, folder, dtype, ignore=text_side)
    else:
        tower = load_strictly(CLIPVisionModel, folder, dtype, ignore=rf"{text_side}|visual_projection\.")
    settings = read_json(folder / PREPROCESSOR) if (folder / PREPROCESSOR).is_file() else {}
    mean, std = (tuple(settings.get(name, usual)) for name, usual in _USUAL)
    return ClipImageEncoder(prepare(tower, frozen=True, gradient_checkpointing=False), mean, std)


_USUAL = (("image_mean", CLIP_MEAN), ("image_std", CLIP_STD))
