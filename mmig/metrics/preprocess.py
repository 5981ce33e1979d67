"""How an image and a caption enter an encoder: declared, because each choice moves the score.

Presets named `compat_*` reproduce published scripts, defects included, and only serve to compare with their numbers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.metrics.images import check_range, resized


class PreprocessingError(ValueError):
    """An unknown preset, or a preset used with a model it does not describe."""


@dataclass(frozen=True)
class Preprocessing:
    """Declared preprocessing of one encoder.

    Attributes:
        resize: "squash" to a square, keeping all of the image, or "crop": short side, then centre crop.
        short_side: pixels of the short side before a crop; None for the side of the crop itself.
        antialias: low-pass before shrinking; without it fine texture turns into noise.
        input_range: what the normalisation is fed, "unit" [0,1], or "signed" [-1,1], the defect of InstructPix2Pix.
        long_text: "truncate" a long caption, keeping its end-of-text token, or "refuse" it.
        expected_models: open_clip names that the reproduced script used; empty where any model will do.
        resizer: "torch" resizes floats, "pillow" pictures of 256 levels, whose result is rounded to 256 levels again.
        edited_size: an edited picture of another size than its sample's images is resized to "sample" first, or goes in
            as it was made ("own").
        zero_direction: CLIP's directional similarity where a direction is zero: "skip" the sample, or count a "zero".
        reproduces: the published script whose figures these are; "" for none.
        defects: what that script does otherwise than `default`, in words.
    """

    resize: Literal["squash", "crop"] = "squash"
    short_side: int | None = None
    antialias: bool = True
    input_range: Literal["unit", "signed"] = "unit"
    long_text: Literal["truncate", "refuse"] = "truncate"
    expected_models: tuple[str, ...] = ()
    resizer: Literal["torch", "pillow"] = "torch"
    edited_size: Literal["sample", "own"] = "sample"
    zero_direction: Literal["skip", "zero"] = "skip"
    reproduces: str = ""
    defects: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest legal value of a float image."""
        return (-1.0, 1.0) if self.input_range == "signed" else (0.0, 1.0)

    def describe(self, reads_texts: bool = True) -> dict[str, Any]:
        """What metrics.json stores; of texts only where the encoder reads any, of scripts only what one does."""
        left_out = {"expected_models"} if reads_texts else {"expected_models", "long_text"}
        left_out |= {name for name in _OF_SCRIPTS if getattr(self, name) == getattr(Preprocessing, name)}
        return {key: value for key, value in asdict(self).items() if key not in left_out}


_OF_SCRIPTS = ("resizer", "edited_size", "zero_direction", "reproduces", "defects")
"""What only presets that reproduce a script set."""

MAGICBRUSH = "evaluation/image_eval.py of MagicBrush"
ROUNDED, CUT = "pixels are rounded to 256 levels after resizing", "all outside the middle square is cut away"
"""What that script's transforms of both CLIP and DINO do."""

PRESETS: dict[str, Preprocessing] = {
    "default": Preprocessing(),
    "crop": Preprocessing(resize="crop"),
    "compat_ip2p": Preprocessing(
        antialias=False,
        input_range="signed",
        expected_models=("ViT-L-14", "ViT-L-14-quickgelu"),
        edited_size="own",
        zero_direction="zero",
        reproduces="metrics/clip_similarity.py of InstructPix2Pix",
        defects=(
            "images in [-1,1] are normalised as if they were in [0,1]",
            "resizing has no antialiasing",
            "an unchanged image or caption counts as a directional similarity of 0",
        ),
    ),
    # OpenAI's own transform of ViT-B/32, on PIL images
    "compat_magicbrush": Preprocessing(
        resize="crop",
        long_text="refuse",
        expected_models=("ViT-B-32", "ViT-B-32-quickgelu"),
        resizer="pillow",
        edited_size="own",
        reproduces=MAGICBRUSH,
        defects=(ROUNDED, CUT, "a caption that is too long for CLIP is refused"),
    ),
}


def preset(name: str, model_name: str) -> Preprocessing:
    """The preprocessing called `name` for the CLIP `model_name`.

    Raises:
        PreprocessingError: for an unknown name or another model than the reproduced script used.
    """
    if name not in PRESETS:
        raise PreprocessingError(f"preprocessing {name!r} is unknown; expected one of {', '.join(PRESETS)}")
    chosen = PRESETS[name]
    if chosen.expected_models and model_name not in chosen.expected_models:
        raise PreprocessingError(
            f"preprocessing {name!r} reproduces scores of {' or '.join(chosen.expected_models)}, found CLIP "
            f"{model_name!r}; give that model, or use the preprocessing 'default'"
        )
    return chosen


def prepare_images(images: Tensor | Sequence[Tensor], size: int, preprocessing: Preprocessing) -> Tensor:
    """What an encoder reads of images, before the normalisation.

    Args:
        images: [B,3,H,W], uint8 or float in the declared range; or several [3,H,W] of different sizes.
        size: side of the square that the encoder takes, pixels.
        preprocessing: the declared choices.

    Returns:
        float32 [B,3,size,size] in the declared range.

    Raises:
        ImageRangeError: for floats outside the declared range.
    """
    if not isinstance(images, Tensor):
        return torch.cat([prepare_images(image[None], size, preprocessing) for image in images])
    low, high = preprocessing.bounds
    if images.dtype == torch.uint8:
        images = images.float() / 255 * (high - low) + low
    check_range(images, low, high)
    images = images.float().clamp(low, high)
    height, width = images.shape[-2:]
    if preprocessing.resize == "squash":
        return _resize(images, (size, size), preprocessing)
    shorter, wanted = min(height, width), preprocessing.short_side or size
    high, wide = wanted * height // shorter, wanted * width // shorter
    images = _resize(images, (high, wide), preprocessing)
    top, left = round((high - size) / 2), round((wide - size) / 2)
    return images[..., top : top + size, left : left + size]


def _resize(images: Tensor, size: tuple[int, int], preprocessing: Preprocessing) -> Tensor:
    if preprocessing.resizer == "pillow":
        return resized(images, size)
    if tuple(images.shape[-2:]) == size:
        return images
    found = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=preprocessing.antialias)
    if not preprocessing.antialias:
        return found  # the reproduced script keeps the overshoot
    return found.clamp(*preprocessing.bounds)
