"""Features of a published pipeline's frozen parts: posteriors of its autoencoder, states of its text encoder."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch
from mmig.cache.frozen import CachedFeature, FrozenFeatures, image, mask_of, up_to
from mmig.diffusion.text import encode_text

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution


class FrozenParts(Protocol):
    """A model with the frozen parts of a published pipeline."""

    vae: Any
    text_encoder: Any
    tokenizer: Any


class LatentFeatures(FrozenFeatures):
    """Latents and texts, and whatever else a method declares.

    Args:
        model: whose frozen parts compute what was not cached; looked at in every call.
        facts: see `FrozenFeatures`; among them the fingerprints of `vae`, `text_encoder` and `tokenizer`, `dtype` and
            `max_text_chunks`.
        max_text_chunks: longest text, in lengths of the text encoder.
    """

    def __init__(
        self, model: FrozenParts, facts: Callable[[], Mapping[str, str]] = dict, max_text_chunks: int = 1
    ) -> None:
        super().__init__(facts)
        self._model = model
        self._max_text_chunks = max_text_chunks
        self._empty: Tensor | None = None

    def of_latents(self, field: str) -> CachedFeature:
        """`latents.FIELD`: moments [2c,h,w] of the posterior of an image field, to declare."""
        return CachedFeature(f"latents.{field}", partial(self._moments, field=field), ("vae", "dtype"), True)

    def of_text(self, field: str) -> CachedFeature:
        """`text.FIELD`: the text encoder's states [n,D] of a text field, to declare."""
        depends = ("text_encoder", "tokenizer", "max_text_chunks", "dtype")
        return CachedFeature(f"text.{field}", partial(self._states, field=field), depends)

    def posterior(self, batch: Batch, field: str) -> "DiagonalGaussianDistribution":
        """The autoencoder's posterior of an image field, mean and standard deviation [B,c,h,w], not normalised."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        vae = self._model.vae
        stored = self.stored(f"latents.{field}", batch)
        if stored is None:
            return vae.encode(image(batch, field).to(vae.device, vae.dtype)).latent_dist
        return DiagonalGaussianDistribution(stored[0].to(vae.device, vae.dtype))

    def text(self, batch: Batch, fields: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The text encoder's states of one text a sample: `tokens` and `mask` of a `Conditioning`.

        Args:
            batch: of B samples.
            fields: which text field of each sample; "" for the empty text.
        """
        stored = {field: self.stored(f"text.{field}", batch) for field in sorted(set(fields) - {""})}
        found = {field: value for field, value in stored.items() if value is not None}
        if not stored or len(found) < len(stored):
            texts = [batch[field][row] if field else "" for row, field in enumerate(fields)]  # type: ignore[literal-required]
            return self.encode(texts)
        return self._chosen(found, fields)

    @torch.no_grad()
    def empty_text(self) -> Tensor:
        """The states of the empty text [L,D], computed once."""
        if self._empty is None:
            self._empty = self.encode([""])[0][0]
        return self._empty

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """States of texts and their mask, by the frozen text encoder."""
        return encode_text(self._model.text_encoder, self._model.tokenizer, texts, self._max_text_chunks)

    def reading(self) -> tuple[Any, int]:
        """The text encoder that gives the states, and its tokens in a chunk."""
        return self._model.text_encoder, self._model.tokenizer.model_max_length

    def _moments(self, batch: Batch, field: str) -> list[Tensor]:
        return list(self.posterior(batch, field).parameters)

    def _states(self, batch: Batch, field: str) -> list[Tensor]:
        return up_to(*self.text(batch, [field] * len(batch["key"])))

    def _chosen(
        self, stored: Mapping[str, tuple[Tensor, Tensor]], fields: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        """Of each sample the stored states of its text, or those of the empty one."""
        encoder, length = self.reading()
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


def _padded(states: Tensor, length: int) -> Tensor:
    """States [B,n,D] with zeros behind, [B,length,D]."""
    return F.pad(states, (0, 0, 0, length - states.shape[1]))
