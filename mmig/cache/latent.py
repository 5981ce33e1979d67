"""Features of a published pipeline's frozen parts: posteriors of its autoencoder, what its text encoders read."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch
from mmig.cache.frozen import CachedFeature, FrozenFeatures, image, mask_of, up_to

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    from mmig.diffusion.reading import TextReader


class FrozenParts(Protocol):
    """A model with the frozen parts of a published pipeline, and the reader of its text encoders."""

    vae: Any
    text_encoder: Any
    reader: "TextReader"


class LatentFeatures(FrozenFeatures):
    """Latents and texts, and whatever else a method declares.

    Args:
        model: whose frozen parts compute what was not cached; looked at in every call.
        facts: see `FrozenFeatures`; among them the fingerprint of `vae`, `dtype`, and what the reader's states and
            vectors depend on.
    """

    def __init__(self, model: FrozenParts, facts: Callable[[], Mapping[str, str]] = dict) -> None:
        super().__init__(facts)
        self._model = model
        self._empty: Tensor | None = None

    def of_latents(self, field: str) -> CachedFeature:
        """`latents.FIELD`: moments [2c,h,w] of the posterior of an image field, to declare."""
        return CachedFeature(f"latents.{field}", partial(self._moments, field=field), ("vae", "dtype"), True)

    def of_text(self, field: str) -> CachedFeature:
        """`text.FIELD`: the reader's states [n,D] of a text field, to declare."""
        return CachedFeature(f"text.{field}", partial(self._states, field=field), self._model.reader.depends)

    def of_pooled(self, field: str) -> list[CachedFeature]:
        """`pooled.FIELD`: the vector [1,P] of a text field, to declare; none where the denoiser takes none."""
        depends = self._model.reader.depends_pooled
        return (
            [CachedFeature(f"pooled.{field}", partial(self._rows_of_pooled, field=field), depends)] if depends else []
        )

    def posterior(self, batch: Batch, field: str) -> "DiagonalGaussianDistribution":
        """The autoencoder's posterior of an image field, mean and standard deviation [B,c,h,w], not normalised."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        vae = self._model.vae
        stored = self.stored(f"latents.{field}", batch)
        if stored is None:
            return vae.encode(image(batch, field).to(vae.device, vae.dtype)).latent_dist
        return DiagonalGaussianDistribution(stored[0].to(vae.device, vae.dtype))

    def text(self, batch: Batch, fields: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The states of one text a sample: `tokens` and `mask` of a `Conditioning`.

        Args:
            batch: of B samples.
            fields: which text field of each sample; "" for the empty text.
        """
        stored = {field: self.stored(f"text.{field}", batch) for field in sorted(set(fields) - {""})}
        found = {field: value for field, value in stored.items() if value is not None}
        if not stored or len(found) < len(stored):
            return self._encode(_texts(batch, fields))
        return self._chosen(found, fields)

    def pooled(self, batch: Batch, fields: Sequence[str]) -> Tensor | None:
        """The vectors [B,P] of one text a sample, as `text` gives their states; None where the denoiser takes none."""
        reader, names = self._model.reader, sorted(set(fields) - {""})
        if not reader.depends_pooled:
            return None
        stored = {field: self.stored(f"pooled.{field}", batch) for field in names}
        if not stored or None in stored.values():
            return reader.pooled(_texts(batch, fields))
        known = {field: found[0][:, 0] for field, found in stored.items() if found is not None}
        first = next(iter(known.values()))
        known[""] = reader.pooled([""]).to(first).expand_as(first) if "" in fields else first
        chosen = torch.stack([known[field][row] for row, field in enumerate(fields)])
        return chosen.to(self._model.text_encoder.device, self._model.text_encoder.dtype)

    @torch.no_grad()
    def empty_text(self) -> Tensor:
        """The states of the empty text [L,D], computed once."""
        if self._empty is None:
            self._empty = self._encode([""])[0][0]
        return self._empty

    def _encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        found = self._model.reader.read(texts)
        return found.tokens, found.mask

    def _moments(self, batch: Batch, field: str) -> list[Tensor]:
        return list(self.posterior(batch, field).parameters)

    def _states(self, batch: Batch, field: str) -> list[Tensor]:
        return up_to(*self.text(batch, [field] * len(batch["key"])))

    def _rows_of_pooled(self, batch: Batch, field: str) -> list[Tensor]:
        return [vector[None] for vector in self.pooled(batch, [field] * len(batch["key"]))]

    def _chosen(
        self, stored: Mapping[str, tuple[Tensor, Tensor]], fields: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        """Of each sample the stored states of its text, or those of the empty one."""
        encoder, length = self._model.reader.encoder, self._model.reader.length
        longest = max(values.shape[1] for values, _ in stored.values())
        choices = {field: (_padded(values, longest), rows) for field, (values, rows) in stored.items()}
        if "" in fields:
            empty = self.empty_text()
            choices[""] = _padded(empty[None], longest), torch.tensor([length], device=empty.device)
        first, *others = choices
        states, counts = choices[first]
        for field in others:
            chosen = torch.tensor([name == field for name in fields], device=states.device)
            values, rows = choices[field]
            states = torch.where(chosen[:, None, None], values.to(states), states)
            counts = torch.where(chosen, rows, counts)
        states = states.to(encoder.device, encoder.dtype)
        return states, None if longest == length else mask_of(counts.clamp(min=length), longest)


def _texts(batch: Batch, fields: Sequence[str]) -> list[str]:
    """One text a sample, empty where its field is ""."""
    return [batch[field][row] if field else "" for row, field in enumerate(fields)]  # type: ignore[literal-required]


def _padded(states: Tensor, length: int) -> Tensor:
    """States [B,n,D] with zeros behind, [B,length,D]."""
    return F.pad(states, (0, 0, 0, length - states.shape[1]))
