"""Everything the metrics read about one edited batch; each image and each text goes through CLIP at most once."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.metrics.clip_encoder import ClipEncoder, TextEmbeddings
from mmig.metrics.dino_encoder import DinoEncoder
from mmig.metrics.images import resized, signed_to_unit
from mmig.metrics.judge import Judge
from mmig.metrics.lpips import Lpips
from mmig.metrics.preprocess import Preprocessing
from mmig.metrics.set_features import NetworkFeatures, SharedFeatures
from mmig.metrics.tools import NEEDS, MetricInputError, Tools

REFERENCE_ROLES = ("subject", "style")
"""Roles of the attached pictures that an edited image is compared with (see `datamodules.sample`)."""


class FeatureBank:
    """A batch, its edited images, and what has been computed from them so far.

    Args:
        batch: a batch of the schema; images in [-1,1].
        edited: edited images [B,3,H,W] in [-1,1]; resized to the batch's images by `images.RESIZING` if their sizes
            differ.
        tools: encoders and judge, each needed by some metrics only.
        written: texts that the editor wrote, one a sample, by what they are ("response", "caption").
        extras: whatever else the editor gave, by name (`EditOutput.extras`).

    Attributes:
        batch, extras: as above; what an open metric reads beside `image`, `text`, `written` and the embeddings.
        keys: of the samples.
        missing: bool [B], the samples that the editor has no image of (`extras["missing"]`).
        resized_from: one entry a sample: (width, height) of an edited picture that was resized to the sample's images,
            here or by the editor (`extras["as_made"]`); else None.

    Raises:
        ImageRangeError: for images outside [-1,1].
    """

    def __init__(
        self,
        batch: Mapping[str, Any],
        edited: Tensor,
        tools: Tools | None = None,
        written: Mapping[str, Sequence[str]] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        self.batch = batch
        self.extras: Mapping[str, Any] = extras or {}
        self.keys: list[str] = list(batch["key"])
        self._tools = tools or Tools()
        self._written = written or {}
        self._images: dict[str, Tensor] = {}
        self._encoded: dict[tuple[str, str], Any] = {}
        self._text_embeddings: dict[str, TextEmbeddings] = {}
        self._written_embeddings: dict[str, TextEmbeddings] = {}
        self._set_edited(edited)

    def with_edited(
        self,
        edited: Tensor,
        written: Mapping[str, Sequence[str]] | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> "FeatureBank":
        """The same batch with all that the editor gave under another seed; embeddings of all the rest are shared."""
        other = FeatureBank(self.batch, edited, self._tools, written, extras)
        other._images = {**self._images, "edited": other._images["edited"]}
        other._encoded = {place: value for place, value in self._encoded.items() if place[1] != "edited"}
        other._text_embeddings = self._text_embeddings
        return other

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def missing(self) -> Tensor:
        """See above; on the CPU."""
        return torch.tensor(self.extras.get("missing") or [False] * len(self), dtype=torch.bool)

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
        return self._once("clip", name, lambda: self._embeddings("clip", name))

    def dino_embeddings(self, name: str) -> Tensor:
        """DINO features of images by name, float32 [B,D], unit length.

        Raises:
            MetricInputError: without a DINO model.
        """
        return self._once("dino", name, lambda: self._embeddings("dino", name))

    def preprocessing(self, tool: str) -> Preprocessing:
        """How images enter the encoder "clip" or "dino".

        Raises:
            MetricInputError: without that encoder.
        """
        return self._tool(tool).preprocessing

    def perceptual_distance(self, first: str, second: str) -> Tensor:
        """LPIPS of two images by name, [B], at least 0.

        Raises:
            MetricInputError: without an LPIPS network.
            ValueError: for images that are too small for it.
        """
        lpips: Lpips = self._tool("lpips")
        one, other = (
            self._once("lpips", name, partial(lpips.encode_images, self.image(name))) for name in (first, second)
        )
        return lpips.distance(one, other)

    def set_features(self, name: str) -> Tensor:
        """What FID and KID compare, float32 [B,D].

        Raises:
            MetricInputError: without such features.
        """
        features: SharedFeatures | NetworkFeatures = self._tool("features")
        if isinstance(features, SharedFeatures):
            return self.image_embeddings(name) if features.name == "clip" else self.dino_embeddings(name)
        return self._once("features", name, lambda: features.encode_images(self.image(name)))

    def references(self) -> tuple[Tensor, Tensor]:
        """Attached pictures of the roles `REFERENCE_ROLES`, of all samples one after the other.

        Returns:
            Images float32 [M,3,h,w] in [0,1], and whose they are: rows of the batch, int64 [M] on the CPU.
        """
        images, roles = self.batch.get("attachment_images"), self.batch.get("attachment_roles")
        if images is None or roles is None:
            return torch.zeros(0, 3, 1, 1), torch.zeros(0, dtype=torch.long)
        places = [
            (row, slot)
            for row, slot in self.batch["has_attachment_images"].cpu().nonzero().tolist()
            if roles[row][slot] in REFERENCE_ROLES
        ]
        rows, slots = torch.tensor(places, dtype=torch.long).reshape(-1, 2).unbind(1)
        return signed_to_unit(images[rows.to(images.device), slots.to(images.device)], "attachment_images"), rows

    def reference_embeddings(self) -> tuple[Tensor, Tensor]:
        """CLIP embeddings of `references`, float32 [M,D] of unit length, and whose they are, int64 [M] on the CPU.

        Raises:
            MetricInputError: without a CLIP encoder.
        """
        images, rows = self.references()
        if not len(rows):
            return self.image_embeddings("edited")[:0], rows
        low, high = self.preprocessing("clip").bounds
        encode = partial(self._tool("clip").encode_images, images * (high - low) + low)
        return self._once("clip", "reference", encode), rows

    def text_embeddings(self, name: str) -> Tensor:
        """CLIP embeddings of texts by field, float32 [B,D], unit length.

        Raises:
            MetricInputError: without a CLIP encoder.
            LongTextError: for a long caption when the preprocessing refuses to truncate.
        """
        if name not in self._text_embeddings:
            are_captions = name in ("source_caption", "target_caption")
            self._text_embeddings[name] = self._tool("clip").encode_texts(self.text(name), are_captions)
        return self._text_embeddings[name].embeddings

    def written_embeddings(self, kind: str) -> Tensor:
        """CLIP embeddings of what the editor wrote, "response" or "caption", float32 [B,D], unit length.

        Raises:
            MetricInputError: without a CLIP encoder.
        """
        if kind not in self._written_embeddings:
            self._written_embeddings[kind] = self._tool("clip").encode_texts(self.written(kind), are_captions=False)
        return self._written_embeddings[kind].embeddings

    def truncated(self) -> dict[str, Tensor]:
        """Texts encoded so far, by field or as "written KIND" -> which of them CLIP had to cut, bool [B]."""
        written = {f"written {kind}": encoded for kind, encoded in self._written_embeddings.items()}
        return {name: encoded.truncated for name, encoded in (self._text_embeddings | written).items()}

    def verdicts(self) -> list[dict[str, float] | None]:
        """The judge's scores, one dict a sample; None where a sample has no metadata.

        Raises:
            MetricInputError: without a judge.
        """
        judge: Judge = self._tool("judge")
        if self._verdicts is None:
            metadata = self.batch.get("metadata") or [{}] * len(self)
            signed = torch.nan_to_num(self._image_for(judge) * 2 - 1).cpu()
            self._verdicts = [
                judge(image, facts) if facts else None for image, facts in zip(signed, metadata, strict=True)
            ]
        return self._verdicts

    def right_texts(self, kind: str) -> list[bool | None]:
        """Whether each text that the editor wrote describes the goal image; None without text or metadata.

        Raises:
            MetricInputError: without a judge that can read.
        """
        read = getattr(self._tools.judge, "text", None)
        if read is None:
            raise MetricInputError(f"metric {kind}_accuracy needs a judge that reads texts, with a method `text`")
        metadata = self.batch.get("metadata") or [{}] * len(self)
        pairs = zip(self.written(kind), metadata, strict=True)
        return [read(text, facts) if text and facts else None for text, facts in pairs]

    def _set_edited(self, edited: Tensor) -> None:
        images = signed_to_unit(edited, "edited")
        if images.shape[0] != len(self):
            raise ValueError(f"edited: expected {len(self)} images, one a sample of the batch, found {images.shape[0]}")
        like = next((self.batch[name] for name in ("target", "source") if self.batch.get(name) is not None), images)
        images = images.to(like.device)
        given = enumerate(self.extras.get("as_made") or ())
        self._as_made = {
            row: signed_to_unit(picture[None].to(like.device), "as_made")[0]
            for row, picture in given
            if picture is not None
        }
        if images.shape[-2:] != like.shape[-2:]:
            self._as_made = dict(enumerate(images))
            images = resized(images, (like.shape[-2], like.shape[-1]))
        sizes = {row: (picture.shape[2], picture.shape[1]) for row, picture in self._as_made.items()}
        self.resized_from = [sizes.get(row) for row in range(len(self))]
        self._images["edited"] = images
        self._verdicts: list[dict[str, float] | None] | None = None

    def _image_for(self, judge: Judge) -> Tensor:
        size = getattr(judge, "image_size", None)
        images = self.image("edited")
        if size is None or tuple(images.shape[-2:]) == (size, size):
            return images
        return F.interpolate(images, (size, size), mode="bicubic", antialias=True).clamp(0, 1)

    def _embeddings(self, tool: str, name: str) -> Tensor:
        """What an encoder makes of images by name, in the size and the range that its preprocessing asks for."""
        encoder: ClipEncoder | DinoEncoder = self._tool(tool)
        images, (low, high) = self.image(name), encoder.preprocessing.bounds
        if name == "edited" and encoder.preprocessing.edited_size == "own" and self._as_made:
            pictures = [self._as_made.get(row, image) for row, image in enumerate(images)]
            return encoder.encode_images([picture * (high - low) + low for picture in pictures])
        return encoder.encode_images(images * (high - low) + low)

    def _once(self, tool: str, image: str, encode: Callable[[], Any]) -> Any:
        """What a tool makes of an image, made at the first time that it is asked for."""
        if (tool, image) not in self._encoded:
            self._encoded[tool, image] = encode()
        return self._encoded[tool, image]

    def _tool(self, name: str) -> Any:
        tool = getattr(self._tools, name)
        if tool is None:
            raise MetricInputError(f"a metric reads {NEEDS[name].what}, and none is there; give {NEEDS[name].option}")
        return tool
