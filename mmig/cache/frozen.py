"""What frozen parts make of a batch: read from the batch where it was cached, else computed."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch, cached_feature
from mmig.cache.facts import check
from mmig.diffusion.text import encode_text
from mmig.language.sequences import ResponseStates, response_ids

if TYPE_CHECKING:
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

logger = logging.getLogger(__name__)


class FrozenParts(Protocol):
    """A model with the frozen parts of a published pipeline; with `mllm`, a `MultimodalLLM`, also e0."""

    vae: Any
    text_encoder: Any
    tokenizer: Any


class FrozenFeatures:
    """The features that a model asks for, wherever they come from.

    Args:
        model: whose frozen parts compute what was not cached; looked at in every call.
        max_text_chunks: longest text, in lengths of the text encoder.

    Attributes:
        names: features that may be cached; those of parts that train are not among them. None before `use_cached`.
        facts: see `use_cached`.
    """

    def __init__(self, model: FrozenParts, max_text_chunks: int = 1) -> None:
        self._model = model
        self._max_text_chunks = max_text_chunks
        self.names: frozenset[str] = frozenset()
        self.facts: Callable[[], Mapping[str, str]] = dict
        self._known: Mapping[str, str] | None = None
        self._lacking: set[str] = set()
        self._empty: Tensor | None = None

    def use_cached(self, names: Iterable[str], facts: Callable[[], Mapping[str, str]]) -> None:
        """Read these features where a batch has them.

        Args:
            names: see `compute`.
            facts: says what the model's parts are (`mmig.cache.facts`), with which those of cached features are
                compared; asked once, when the first ones come and all weights are loaded.
        """
        self.names, self.facts = frozenset(names), facts

    def posterior(self, batch: Batch, field: str) -> "DiagonalGaussianDistribution":
        """The autoencoder's posterior of an image field, mean and standard deviation [B,c,h,w], not normalised."""
        vae = self._model.vae
        if (stored := self._stored(f"latents.{field}", batch)) is not None:
            from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

            return DiagonalGaussianDistribution(stored[0].to(vae.device, vae.dtype))
        return vae.encode(batch[field].to(vae.device, vae.dtype)).latent_dist  # type: ignore[literal-required]

    def text(self, batch: Batch, fields: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """The text encoder's states of one text a sample: `tokens` and `mask` of a `Conditioning`.

        Args:
            batch: of B samples.
            fields: which text field of each sample; "" for the empty text.
        """
        stored = {field: self._stored(f"text.{field}", batch) for field in sorted(set(fields) - {""})}
        found = {field: value for field, value in stored.items() if value is not None}
        if not stored or len(found) < len(stored):
            texts = [batch[field][row] if field else "" for row, field in enumerate(fields)]  # type: ignore[literal-required]
            return encode_text(self._model.text_encoder, self._model.tokenizer, texts, self._max_text_chunks)
        return self._chosen(found, fields)

    def states(self, batch: Batch, has_image: Tensor | None) -> ResponseStates:
        """e0 of the given responses.

        Args:
            batch: with instructions and responses.
            has_image: bool [B], whose source images the LLM sees; None where it sees none.
        """
        mllm = self._model.mllm  # type: ignore[attr-defined]
        if (stored := self._stored("llm.states", batch)) is not None:
            values, rows = stored
            if values.shape[1] == 0:  # no sample has a response
                values = F.pad(values, (0, 0, 0, 1))
            return ResponseStates(values.to(mllm.llm.device, mllm.llm.dtype), _mask(rows, values.shape[1]))
        ids = response_ids(mllm.tokenizer, batch["response"], mllm.config.max_response_tokens)
        images = None if has_image is None else self.seen_images(batch)
        return mllm.states_of_ids(batch["instruction"], ids, images, has_image)

    def seen_images(self, batch: Batch) -> Tensor:
        """What the multimodal LLM is shown: visual tokens [B,K,D] where they are cached, else images [B,3,H,W]."""
        stored = self._stored("llm.visual_tokens", batch)
        return batch["source"] if stored is None else stored[0]

    def visual_tokens(self, batch: Batch) -> Tensor:
        """Visual tokens of the source images, [B,K,D]."""
        return self._model.mllm.visual_tokens(self.seen_images(batch), batch["has_source"])  # type: ignore[attr-defined]

    @property
    def llm_sees(self) -> bool:
        """Whether there is a multimodal LLM with a vision tower."""
        mllm = getattr(self._model, "mllm", None)
        return mllm is not None and mllm.vision is not None

    def _stored(self, name: str, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """A cached feature and its rows of each sample, after comparing what made it with the parts of this run."""
        facts: Any = batch.get("feature_facts")
        if facts is None or name not in self.names:
            return None
        if self._known is None:
            self._known = self.facts()
        stored = cached_feature(batch, name)
        if stored is not None:
            check(name, facts, self._known)
        elif name not in self._lacking:
            self._lacking.add(name)
            logger.warning("the cached features lack %s, which is computed anew in every step", name)
        return stored

    def _chosen(
        self, stored: Mapping[str, tuple[Tensor, Tensor]], fields: Sequence[str]
    ) -> tuple[Tensor, Tensor | None]:
        """Of each sample the stored states of its text, or those of the empty one."""
        encoder, length = self._model.text_encoder, self._model.tokenizer.model_max_length
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
        return states, None if longest == length else _mask(counts.clamp(min=length), longest)

    @torch.no_grad()
    def empty_text(self) -> Tensor:
        """The states of the empty text [L,D], computed once."""
        if self._empty is None:
            self._empty = encode_text(self._model.text_encoder, self._model.tokenizer, [""])[0][0]
        return self._empty


def _padded(states: Tensor, length: int) -> Tensor:
    """States [B,n,D] with zeros behind, [B,length,D]."""
    return F.pad(states, (0, 0, 0, length - states.shape[1]))


def _mask(rows: Tensor, length: int) -> Tensor:
    """True at the first rows of each sample, bool [B,length]."""
    return torch.arange(length, device=rows.device) < rows[:, None]
