"""One image transformer for all DINO metrics: declared preprocessing, fp32 features of the class token."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.metrics.preprocess import CUT, MAGICBRUSH, ROUNDED, Preprocessing, PreprocessingError, prepare_images

if TYPE_CHECKING:
    from mmig.backbones.image_model import ImageModel

DINO_PRESETS: dict[str, Preprocessing] = {
    "default": Preprocessing(),
    "crop": Preprocessing(resize="crop"),
    # DINO's own transform for evaluation, on PIL images: 256 pixels, of which 224 are cut
    "compat_magicbrush": Preprocessing(
        resize="crop",
        short_side=256,
        resizer="pillow",
        edited_size="own",
        reproduces=MAGICBRUSH,
        defects=(ROUNDED, CUT),
    ),
}
_MAGICBRUSH_SIZE = 224


class DinoEncoder:
    """L2-normalised features of images, computed in fp32 without gradients.

    Args:
        image_model: model and constants, from `mmig.backbones.image_model.load_image_model`.
        preprocessing: how images enter the model.
        identity: what names the model in metrics.json (name, fingerprint).
        device: where the model runs.
    """

    def __init__(
        self,
        image_model: "ImageModel",
        preprocessing: Preprocessing | None = None,
        identity: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = image_model.model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.image_size = image_model.image_size
        self.preprocessing = preprocessing or Preprocessing()
        self.device = torch.device(device)
        self._constants = {"mean": list(image_model.mean), "std": list(image_model.std)}
        self._mean = torch.tensor(image_model.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(image_model.std, device=device).view(1, 3, 1, 1)
        self._identity = dict(identity or {})

    def describe(self) -> dict[str, Any]:
        """Model and preprocessing identifiers for metrics.json."""
        known = {"class": type(self.model).__name__, "image_size": self.image_size, **self._constants}
        preprocessing = self.preprocessing.describe(reads_texts=False)
        return {**self._identity, **known, "precision": "fp32", "preprocessing": preprocessing}

    @torch.no_grad()
    def encode_images(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Images as `prepare_images` takes them, uint8 or float in [0,1] -> float32 [B,D] of unit length.

        Raises:
            ImageRangeError: for floats outside [0,1].
        """
        pixels = prepare_images(images, self.image_size, self.preprocessing).to(self.device)
        with torch.autocast(self.device.type, enabled=False):
            states = self.model(pixel_values=(pixels - self._mean) / self._std).last_hidden_state
        return F.normalize(states[:, 0].float(), dim=-1)


def load_dino(name: str, preprocessing: str = "default", device: torch.device | str = "cpu") -> DinoEncoder:
    """Encoder of a transformers folder or hub id (facebook/dino-vits16, facebook/dinov2-small).

    Raises:
        PreprocessingError: for an unknown preset, or one that belongs to another image size.
        ValueError: from the loader, for a wrong or missing folder.
    """
    if preprocessing not in DINO_PRESETS:
        expected = ", ".join(DINO_PRESETS)
        raise PreprocessingError(f"dino_preprocessing {preprocessing!r} is unknown; expected one of {expected}")
    from mmig.backbones.fingerprint import fingerprint
    from mmig.backbones.image_model import load_image_model

    image_model = load_image_model(name)
    if preprocessing == "compat_magicbrush" and image_model.image_size != _MAGICBRUSH_SIZE:
        raise PreprocessingError(
            f"dino_preprocessing {preprocessing!r} cuts {_MAGICBRUSH_SIZE} pixels, {name} takes "
            f"{image_model.image_size}; give facebook/dino-vits16, or use 'crop'"
        )
    identity = {"name": name, "fingerprint": fingerprint(name, "image_model"), "preset": preprocessing}
    return DinoEncoder(image_model, DINO_PRESETS[preprocessing], identity, device)
