"""Everything the metrics read about one edited batch; each image and each text goes through CLIP at most once."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.metrics.clip_encoder import ClipEncoder, TextEmbeddings
from mmig.metrics.images import signed_to_unit
from mmig.metrics.judge import Judge


class MetricInputError(ValueError):
    """A metric needs something that this evaluation was not given (a CLIP encoder, a judge)."""


class FeatureBank:
    """A batch, its edited images, and what has been computed from them so far.

    Args:
        batch: a batch of the schema; images in [-1,1].
        edited: edited images [B,3,H,W] in [-1,1]; resized to the batch's images if their sizes differ.
        encoder: needed by the CLIP metrics only.
        judge: needed by the judged metrics only.
        written: texts that the editor wrote, one a sample, by what they are ("response", "caption").
        extras: whatever else the editor gave, by name (`EditOutput.extras`).

    Attributes:
        batch, extras: as above; what an open metric reads beside `image`, `text`, `written` and the embeddings.
        keys: of the samples.

    Raises:
        ImageRangeError: for images outside [-1,1].
    """

    def __init__(
        self,
        batch: Mapping[str, Any],
        edited: Tensor,
        encoder: ClipEncoder | None = None,
        judge: Judge | None = None,
        written: Mapping[str, Sequence[str]] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch = batch
        self.extras: Mapping[str, Any] = extras or {}
        self.keys: list[str] = list(batch["key"])
        self._encoder = encoder
        self._judge = judge
        self._written = written or {}
        self._images: dict[str, Tensor] = {}
        self._image_embeddings: dict[str, Tensor] = {}
        self._text_embeddings: dict[str, TextEmbeddings] = {}
        self._set_edited(edited)

    def with_edited(
        self,
        edited: Tensor,
        written: Mapping[str, Sequence[str]] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> "FeatureBank":
        """The same batch with all that the editor gave under another seed; embeddings of all the rest are shared."""
        other = FeatureBank(self.batch, edited, self._encoder, self._judge, written, extras)
        other._images = {**self._images, "edited": other._images["edited"]}
        other._image_embeddings = {name: value for name, value in self._image_embeddings.items() if name != "edited"}
        other._text_embeddings = self._text_embeddings
        return other

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, name: str) -> Tensor:
        """Images "source", "target" or "edited", float32 [B,3,H,W] in [0,1]; absent ones are grey."""
        if name not in self._images:
            images = self.batch.get(name)
            zeros = torch.zeros_like(self.image("edited")) if images is None else None
            self._images[name] = signed_to_unit(images, name) if zeros is None else zeros
        return self._images[name]

    def has_image(self, name: str) -> Tensor:
        """Which samples have the image "source" or "target": bool [B] on the CPU."""
        if self.batch.get(name) is None:
            return torch.zeros(len(self), dtype=torch.bool)
        flags = self.batch.get(f"has_{name}")
        return torch.ones(len(self), dtype=torch.bool) if flags is None else flags.bool().cpu()

    def text(self, name: str) -> list[str]:
        """Texts of one field, "" where absent."""
        return list(self.batch.get(name) or [""] * len(self))

    def has_text(self, name: str) -> Tensor:
        """Which samples have this text: bool [B] on the CPU."""
        return torch.tensor([bool(text.strip()) for text in self.text(name)], dtype=torch.bool)

    def written(self, kind: str) -> list[str]:
        """What the editor wrote, "response" or "caption", one text a sample; "" where it wrote none."""
        return list(self._written.get(kind) or [""] * len(self))

    def image_embeddings(self, name: str) -> Tensor:
        """CLIP embeddings of images by name, float32 [B,D], unit length.

        Raises:
            MetricInputError: without a CLIP encoder.
        """
        if name not in self._image_embeddings:
            encoder = self._require_encoder()
            low, high = encoder.preprocessing.bounds
            self._image_embeddings[name] = encoder.encode_images(self.image(name) * (high - low) + low)
        return self._image_embeddings[name]

    def text_embeddings(self, name: str) -> Tensor:
        """CLIP embeddings of texts by field, float32 [B,D], unit length.

        Raises:
            MetricInputError: without a CLIP encoder.
            LongTextError: for a long text when the preprocessing refuses to truncate.
        """
        if name not in self._text_embeddings:
            self._text_embeddings[name] = self._require_encoder().encode_texts(self.text(name))
        return self._text_embeddings[name].embeddings

    def truncated(self) -> dict[str, Tensor]:
        """Fields encoded so far -> which of their texts CLIP had to cut, bool [B]."""
        return {name: encoded.truncated for name, encoded in self._text_embeddings.items()}

    def verdicts(self) -> list[dict[str, float] | None]:
        """The judge's scores, one dict a sample; None where a sample has no metadata.

        Raises:
            MetricInputError: without a judge.
        """
        if self._judge is None:
            raise MetricInputError(
                "metrics that ask a judge (joint, success, preservation) need one; give --judge CLASS_PATH"
            )
        if self._verdicts is None:
            metadata = self.batch.get("metadata") or [{}] * len(self)
            signed = torch.nan_to_num(self._image_for(self._judge) * 2 - 1).cpu()
            self._verdicts = [
                self._judge(image, facts) if facts else None for image, facts in zip(signed, metadata, strict=True)
            ]
        return self._verdicts

    def right_texts(self, kind: str) -> list[bool | None]:
        """Whether each text that the editor wrote describes the goal image; None without text or metadata.

        Raises:
            MetricInputError: without a judge that can read.
        """
        read = getattr(self._judge, "text", None)
        if read is None:
            raise MetricInputError(f"metric {kind}_accuracy needs a judge that reads texts, with a method `text`")
        metadata = self.batch.get("metadata") or [{}] * len(self)
        pairs = zip(self.written(kind), metadata, strict=True)
        return [read(text, facts) if text and facts else None for text, facts in pairs]

    def _set_edited(self, edited: Tensor) -> None:
        images = signed_to_unit(edited, "edited")
        if images.shape[0] != len(self):
            raise ValueError(f"edited: expected {len(self)} images, one a sample of the batch, found {images.shape[0]}")
        like = next((self.batch[name] for name in ("target", "source") if self.batch.get(name) is not None), None)
        if like is not None and images.shape[-2:] != like.shape[-2:]:
            images = F.interpolate(images, like.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)
        self._images["edited"] = images if like is None else images.to(like.device)
        self._verdicts: list[dict[str, float] | None] | None = None

    def _image_for(self, judge: Judge) -> Tensor:
        size = getattr(judge, "image_size", None)
        images = self.image("edited")
        if size is None or tuple(images.shape[-2:]) == (size, size):
            return images
        return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)

    def _require_encoder(self) -> ClipEncoder:
        if self._encoder is None:
            raise MetricInputError("metrics that read CLIP embeddings need an encoder; give --clip NAME [WEIGHTS]")
        return self._encoder
