"""One CLIP encoder for all metrics: declared preprocessing, fp32 embeddings, long captions counted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmig.base.paths import resolved
from mmig.metrics.preprocess import Preprocessing, prepare_images, preset

if TYPE_CHECKING:
    from mmig.backbones.clip import OpenClip


class LongTextError(ValueError):
    """A caption is longer than CLIP's context and the preprocessing refuses to truncate it."""


@dataclass
class TextEmbeddings:
    """Embeddings of texts, float32 [B,D] of unit length, and which texts were truncated, bool [B]."""

    embeddings: Tensor
    truncated: Tensor


class ClipEncoder:
    """L2-normalised embeddings of images and texts, computed in fp32 without gradients.

    Args:
        clip: model, tokenizer and constants, from `mmig.backbones.clip.load_open_clip`.
        preprocessing: how images and texts enter the model.
        identity: what names the model in metrics.json (name, weights, fingerprint).
        device: where the model runs.
    """

    def __init__(
        self,
        clip: "OpenClip",
        preprocessing: Preprocessing | None = None,
        identity: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.model = clip.model.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.tokenizer = clip.tokenizer
        self.context_length = clip.context_length
        self.image_size = clip.image_size
        self.preprocessing = preprocessing or Preprocessing()
        self.device = torch.device(device)
        self._mean = torch.tensor(clip.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(clip.std, device=device).view(1, 3, 1, 1)
        self._identity = dict(identity or {})

    def describe(self) -> dict[str, Any]:
        """Model and preprocessing identifiers for metrics.json."""
        sizes = {"image_size": self.image_size, "context_length": self.context_length, "precision": "fp32"}
        return {**self._identity, **sizes, "preprocessing": self.preprocessing.describe()}

    @torch.no_grad()
    def encode_images(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Images as `prepare_images` takes them, uint8 or float in the declared range -> float32 [B,D] of unit length.

        Raises:
            ImageRangeError: for floats outside the declared range.
        """
        pixels = prepare_images(images, self.image_size, self.preprocessing).to(self.device)
        with torch.autocast(self.device.type, enabled=False):  # half precision moves the third decimal
            return self.model.encode_image((pixels - self._mean) / self._std, normalize=True).float()

    @torch.no_grad()
    def encode_texts(self, texts: list[str], are_captions: bool = True) -> TextEmbeddings:
        """Texts -> unit embeddings; equal texts are encoded once, so their embeddings are equal to the bit.

        Raises:
            LongTextError: if a caption is too long and the preprocessing says "refuse"; other texts are cut then too,
                for the scripts that refuse know none.
        """
        unique = list(dict.fromkeys(texts))
        tokens = self.tokenizer(unique, context_length=self.context_length)
        # One slot more shows what truncation replaces: the last slot of a cut text becomes end-of-text.
        longer = self.tokenizer(unique, context_length=self.context_length + 1)
        truncated = (longer[:, : self.context_length] != tokens).any(dim=1)
        if are_captions and self.preprocessing.long_text == "refuse" and bool(truncated.any()):
            text = unique[int(truncated.int().argmax())]
            raise LongTextError(
                f"caption of {len(text.split())} words exceeds CLIP's {self.context_length} tokens and this "
                f"preprocessing refuses to truncate: {text[:80]!r}...; shorten it or use the preprocessing 'default'"
            )
        with torch.autocast(self.device.type, enabled=False):
            embeddings = self.model.encode_text(tokens.to(self.device), normalize=True).float()
        row_of = {text: row for row, text in enumerate(unique)}
        rows = torch.tensor([row_of[text] for text in texts])
        return TextEmbeddings(embeddings[rows.to(self.device)], truncated[rows])


def load_encoder(
    name: str, weights: str | None = None, preprocessing: str = "default", device: torch.device | str = "cpu"
) -> ClipEncoder:
    """Encoder of an open_clip model by name and weights, or of a local folder in open_clip's layout.

    Raises:
        PreprocessingError: for an unknown preset or one that belongs to another model.
        ValueError: from the loader, for a wrong or missing folder.
    """
    chosen = preset(preprocessing, name)
    from mmig.backbones.clip import load_open_clip

    identity: dict[str, Any] = {"name": name, "weights": weights, "preset": preprocessing}
    if resolved(name).is_dir():
        from mmig.backbones.fingerprint import fingerprint

        identity["fingerprint"] = fingerprint(name)
    return ClipEncoder(load_open_clip(name, weights), chosen, identity, device)
