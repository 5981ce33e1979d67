"""ImageBind's vectors of what a batch holds: all of length 1, in one space (Li et al. 2023, section 3.1).

Modalities differ in the lengths that ImageBind gives them, so everything here is a unit vector; what a released part
wants longer, it is given longer inside (`RefinementPrior`, `released`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch, without_placeholders
from mmig.backbones.imagebind import load_imagebind, load_imagebind_tokenizer, text_ids
from mmig.backbones.named import Source
from mmig.cache.frozen import CachedFeature, FrozenFeatures, image
from mmig.diffusion.saving import save_parts

IMAGE, AUDIO, TEXT = MODALITIES = (0, 1, 2)
"""Numbers of the modalities, those of the released table of types."""
KINDS = {"image": IMAGE, "audio": AUDIO}
ATTACHMENTS = "vectors.attachments"
FACTS = ("imagebind", "imagebind_tokenizer")
"""What vectors depend on."""


class VectorEncoder(nn.Module):
    """F_enc: pictures, texts and sounds to unit vectors, frozen.

    Args:
        model: ImageBind.
        tokenizer: of its text tower.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer

    @property
    def width(self) -> int:
        """D of the vectors."""
        return self.model.config.embed_dim

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.model.device

    @torch.no_grad()
    def images(self, images: Tensor) -> Tensor:
        """Vectors [N,D] of pictures [N,3,H,W] in [-1,1]."""
        return self.model.embed_images(images.to(self.device))

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Vectors [N,D] of texts, of which placeholders are left out."""
        if not texts:
            return torch.zeros(0, self.width, device=self.device)
        return self.model.embed_texts(
            text_ids(self.tokenizer, [without_placeholders(text) for text in texts]).to(self.device)
        )

    @torch.no_grad()
    def attachments(self, batch: Mapping[str, Any]) -> Tensor:
        """Vectors [B,K,D] of the attached pictures and sounds; zeros in empty slots."""
        has_image, has_audio = batch["has_attachment_images"], batch["has_attachment_audio"]
        found = torch.zeros(*has_image.shape, self.width, device=self.device)
        if has_image.any():
            found[has_image.to(self.device)] = self.images(batch["attachment_images"][has_image])
        if has_audio.any():
            sounds, lengths = batch["attachment_audio"][has_audio], batch["attachment_audio_samples"][has_audio]
            found[has_audio.to(self.device)] = self.model.embed_sounds(sounds.to(self.device), lengths.to(self.device))
        return found

    # As cached features ------------------------------------------------------------------------------------------

    def of_image(self, field: str) -> CachedFeature:
        """`vectors.FIELD`, [1,D] of an image field."""
        return CachedFeature(f"vectors.{field}", partial(self._image_rows, field=field), FACTS[:1], True)

    def of_text(self, field: str) -> CachedFeature:
        """`vectors.FIELD`, [1,D] of a text field; of no text the vector of an empty one."""
        return CachedFeature(f"vectors.{field}", lambda batch: list(self.texts(batch[field])[:, None]), FACTS)

    def of_attachments(self) -> CachedFeature:
        """`vectors.attachments`, [K,D] of a sample's own K attachments."""
        return CachedFeature(ATTACHMENTS, self._attachment_rows, FACTS[:1])

    def _image_rows(self, batch: Batch, field: str) -> list[Tensor]:
        return list(self.images(image(batch, field))[:, None])

    def _attachment_rows(self, batch: Batch) -> list[Tensor]:
        kinds = batch["attachment_kinds"]
        return [rows[: len(own)] for rows, own in zip(self.attachments(batch), kinds, strict=True)]


def one_vector(features: FrozenFeatures, name: str, batch: Batch, device: torch.device) -> Tensor:
    """A declared feature of one vector a sample, [B,D]."""
    return features.get(name, batch)[0][:, 0].to(device, torch.float32)


def attached_vectors(features: FrozenFeatures, batch: Batch, device: torch.device) -> Tensor:
    """The declared vectors of the attachments, [B,K,D] with K as in the batch."""
    found = features.get(ATTACHMENTS, batch)[0].to(device, torch.float32)
    return found[:, : batch["has_attachment_images"].shape[1]]


def slot_vectors(numbers: Sequence[Sequence[int]], source: Tensor, attached: Tensor) -> Tensor:
    """Vectors of the slots of each sample in their order, [B,S,D] with S at least 1; zeros where there is none.

    Args:
        numbers: of each sample's slots: an attachment's, -1 for the source; others are left zero.
        source: [B,D].
        attached: [B,K,D].
    """
    most = max(1, *map(len, numbers))
    found = source.new_zeros(len(source), most, source.shape[1])
    for row, own in enumerate(numbers):
        for place, number in enumerate(own):
            if number >= -1:
                found[row, place] = source[row] if number == -1 else attached[row, number]
    return found


def load_encoder(path: Source, tokenizer: Source | None = None) -> VectorEncoder:
    """ImageBind with its tokenizer, frozen; of the same folder where no other is given.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    return VectorEncoder(load_imagebind(path), load_imagebind_tokenizer(tokenizer or path))


def save_encoder(encoder: VectorEncoder, folder: Path) -> None:
    """Write the encoder with its tokenizer below a folder, for `load_encoder`."""
    save_parts(folder, {"imagebind": encoder.model})
    encoder.tokenizer.save_pretrained(folder / "imagebind")
