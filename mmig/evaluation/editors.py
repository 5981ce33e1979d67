"""Editors that no method trains: what the scores of others are held against, and pictures that are there already."""

import copy
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn

from datamodules.schema import Batch, image_to_tensor
from mmig.backbones.diffusion import load_vae
from mmig.diffusion.latents import encode_unscaled
from mmig.diffusion.sampling import per_sample
from mmig.editor import EditOutput, NoSettings, ResponseSource
from mmig.evaluation.pictures import PictureError, read_image
from mmig.evaluation.places import TEXTS, key_of

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
SHAPE_TOLERANCE = 0.02
"""A picture whose sides have another ratio than the sample's, by more than this share, shows another cut of it."""
Generators = torch.Generator | Sequence[torch.Generator]


class Identity:
    """Returns the source: nothing happens, and all stays."""

    sampling = NoSettings()
    required_fields: tuple[str, ...] = ("source",)
    response_source: ResponseSource = "none"

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """The sources as they are."""
        return EditOutput(batch["source"].clone(), [""] * len(batch["key"]))


class Reconstruction:
    """An image of each sample, encoded and decoded: what an autoencoder keeps of it.

    Args:
        vae: the autoencoder; its latent scale does not matter.
        field: "source" or "target".
    """

    sampling = NoSettings()
    response_source: ResponseSource = "none"

    def __init__(self, vae: nn.Module, field: Literal["source", "target"]) -> None:
        self.vae, self.field = vae, field

    @property
    def required_fields(self) -> tuple[str, ...]:
        """That image."""
        return (self.field,)

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """The decoded modes of the posteriors; nothing is drawn, but what is no seed is refused as elsewhere."""
        per_sample(generator, len(batch["key"]))
        images = self.vae.decode(encode_unscaled(self.vae, batch[self.field])).sample
        return EditOutput(images.clamp(-1, 1), [""] * len(batch["key"]))


class AutoencoderCeiling(Reconstruction):
    """The true target, encoded and decoded: what an editor in the latent space of an autoencoder reaches at best.

    Args:
        vae: folder or hub id of the autoencoder, its own or a pipeline's.

    Raises:
        BackboneError: no autoencoder there.
    """

    def __init__(self, vae: str) -> None:
        super().__init__(load_vae(vae), "target")


@dataclass(frozen=True)
class Picture:
    """One ready-made picture: the key of its sample, the seed that it was made under, its file."""

    key: str
    seed: int
    path: Path


class FolderOfPictures:
    """Pictures that something else has made, by key: `KEY.png`, `.jpg` or `.webp` of seed 0, or `KEY.SEED.png`.

    In a key, / is written %2F and % is written %25, as `train.py predict` does. `texts.json` may lie beside them, with
    the text that came with each picture by its file's name without the suffix. A sample without a picture is skipped by
    every metric, and counted as such ("no_picture"). Pictures take the size of the sample's own images by the rule
    `mmig.metrics.images.RESIZING`; which ones did, and as they were, is told to the metrics (`extras["as_made"]`).

    Args:
        folder: where they lie.

    Raises:
        PictureError: no such folder, no picture in it, two of the same sample and seed, or unreadable texts.
    """

    required_fields: tuple[str, ...] = ()
    sampling = NoSettings()

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.pictures = _pictures(self.folder)
        self.texts = _texts(self.folder / TEXTS)
        self.seed = 0

    @property
    def response_source(self) -> ResponseSource:
        """What made the pictures wrote the texts."""
        return "generated" if self.texts else "none"

    @property
    def seeds(self) -> list[int]:
        """All seeds of which there are pictures."""
        return sorted({seed for _, seed in self.pictures})

    def at_seed(self, seed: int) -> "FolderOfPictures":
        """The pictures of one seed.

        Raises:
            PictureError: there are none.
        """
        if seed not in self.seeds:
            found = ", ".join(map(str, self.seeds))
            raise PictureError(
                f"--images {self.folder}: no picture of seed {seed}, found seeds {found}; give as many --seeds as "
                "there are, KEY.SEED.png is a picture of one"
            )
        other = copy.copy(self)
        other.seed = seed
        return other

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """The pictures of a batch, NaN where there is none (`extras["missing"]`).

        Raises:
            PictureError: one cannot be read, or has another shape than the sample's images.
        """
        like = batch["target"] if "target" in batch else batch["source"]
        found = [self.pictures.get((key, self.seed)) for key in batch["key"]]
        absent = torch.full(like.shape[1:], torch.nan), None
        read = [_read(path, like.shape[2:]) if path else absent for path in found]
        texts = [self.texts.get(path.stem, "") if path else "" for path in found]
        extras = {"missing": [path is None for path in found], "as_made": [as_made for _, as_made in read]}
        return EditOutput(torch.stack([image for image, _ in read]).to(like.device), texts, extras)


def _pictures(folder: Path) -> dict[tuple[str, int], Path]:
    if not folder.is_dir():
        raise PictureError(f"--images {folder}: no such folder")
    found: dict[tuple[str, int], Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES:
            name, _, seed = path.stem.rpartition(".")
            place = (key_of(name), int(seed)) if name and re.fullmatch(r"\d+", seed) else (key_of(path.stem), 0)
            if place in found:
                raise PictureError(
                    f"--images {folder}: {found[place].name} and {path.name} are both the picture of {place[0]!r} "
                    f"under seed {place[1]}; keep one of them"
                )
            found[place] = path
    if not found:
        raise PictureError(f"--images {folder}: no picture there; expected KEY.png, .jpg or .webp, or KEY.SEED.png")
    return found


def _texts(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    try:
        texts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PictureError(f"{path}: is not JSON ({error})") from error
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise PictureError(f'{path}: expected one text a picture, as {{"KEY": "a red ball"}}, by its file\'s name')
    return texts


def _read(path: Path, size: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """A picture as float32 [3,H,W] in [-1,1], and as it was made where that was another size, else None."""
    image, (height, width) = read_image(path, "--images"), size
    if abs(image.width * height - image.height * width) > SHAPE_TOLERANCE * image.height * width:
        raise PictureError(
            f"--images {path}: expected the shape of the sample's images, {width}x{height} or larger at the same "
            f"ratio, found {image.width}x{image.height}"
        )
    if image.size == (width, height):
        return image_to_tensor(image), None
    return image_to_tensor(image.resize((width, height), Image.Resampling.BICUBIC)), image_to_tensor(image)
