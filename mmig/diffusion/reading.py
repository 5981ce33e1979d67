"""How a denoiser's text encoders read: Stable Diffusion's CLIP, SDXL's two, or FLUX's pair of CLIP and T5.

A reader looks at its model's parts in every call, so that they may be replaced or moved.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mmig.base.texts import CutText, cut_texts
from mmig.diffusion.concepts import ConceptTokens, locate_concepts, locate_in_rows
from mmig.diffusion.sdxl import encode_by_two
from mmig.diffusion.text import encode_text, split_texts, texts_cut, tokenise

LONGEST = 512
"""Tokens that FLUX reads by T5 where its tokenizer does not say."""


class TextStates(NamedTuple):
    """`tokens`, `mask` and `pooled` of a `Conditioning`."""

    tokens: Tensor
    mask: Tensor | None = None
    pooled: Tensor | None = None


class ReadingParts(Protocol):
    """A model with text encoders."""

    text_encoder: Any
    tokenizer: Any
    text_encoder_2: Any
    tokenizer_2: Any


class TextReader(Protocol):
    """What a denoiser's text encoders make of texts.

    Attributes:
        length: tokens of a chunk.
        depends: facts with which the states change (`CachedFeature.depends`).
        depends_pooled: those of the pooled vectors; () where there are none.
        encoder: the module that gives the states.
        tokenizer: in whose tokens they are.
    """

    length: int
    depends: tuple[str, ...]
    depends_pooled: tuple[str, ...]
    encoder: Any
    tokenizer: Any

    def read(self, texts: Sequence[str], chunks: int | None = None) -> TextStates:
        """States [B,L,D], and a vector [B,P] where the denoiser takes one.

        Args:
            texts: at least one.
            chunks: of `length` tokens that are read of each; None: as many as the longest needs and the reader may.
        """
        ...

    def pooled(self, texts: Sequence[str]) -> Tensor | None:
        """That vector alone, without the work for the states where another encoder gives these."""
        ...

    def locate(self, texts: Sequence[str], concepts: Sequence[Sequence[str]]) -> ConceptTokens:
        """The concepts' tokens among the states (`locate_concepts`)."""
        ...

    def cut(self, texts: Sequence[str], name: str, chunks: int | None = None) -> list[list[CutText]]:
        """What `read` leaves out of texts, for `EditOutput.extras["cut"]`."""
        ...


class ClipReader:
    """Stable Diffusion's: the states of CLIP's text tower, of longer texts in chunks.

    Args:
        model: whose parts read.
        max_chunks: of a text; what is longer is cut.
    """

    depends: tuple[str, ...] = ("text_encoder", "tokenizer", "max_text_chunks", "dtype")
    depends_pooled: tuple[str, ...] = ()

    def __init__(self, model: ReadingParts, max_chunks: int) -> None:
        self._model, self.max_chunks = model, max_chunks

    @property
    def length(self) -> int:
        """CLIP's 77."""
        return self.tokenizer.model_max_length

    @property
    def encoder(self) -> Any:
        """CLIP's."""
        return self._model.text_encoder

    @property
    def tokenizer(self) -> Any:
        """CLIP's."""
        return self._model.tokenizer

    def read(self, texts: Sequence[str], chunks: int | None = None) -> TextStates:
        """As of `TextReader`."""
        return TextStates(*encode_text(self.encoder, self.tokenizer, texts, chunks or self.max_chunks, chunks or 1))

    def pooled(self, texts: Sequence[str]) -> Tensor | None:
        """None: a UNet takes none."""
        return None

    def locate(self, texts: Sequence[str], concepts: Sequence[Sequence[str]]) -> ConceptTokens:
        """As of `TextReader`."""
        return locate_concepts(self.tokenizer, texts, concepts, self.max_chunks)

    def cut(self, texts: Sequence[str], name: str, chunks: int | None = None) -> list[list[CutText]]:
        """As of `TextReader`."""
        return texts_cut(self.tokenizer, texts, name, chunks or self.max_chunks)


class SDXLReader(ClipReader):
    """SDXL's: the states of two CLIP text towers side by side, and the second one's pooled vector; one chunk.

    Args:
        model: whose parts read.
    """

    depends: tuple[str, ...] = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "dtype")
    depends_pooled: tuple[str, ...] = ("text_encoder_2", "tokenizer_2", "dtype")

    def __init__(self, model: ReadingParts) -> None:
        super().__init__(model, max_chunks=1)

    def read(self, texts: Sequence[str], chunks: int | None = None) -> TextStates:
        """As of `TextReader`."""
        model = self._model
        encoders, tokenizers = (model.text_encoder, model.text_encoder_2), (model.tokenizer, model.tokenizer_2)
        found = encode_by_two(encoders, tokenizers, texts)
        return TextStates(found.tokens, pooled=found.pooled)

    def pooled(self, texts: Sequence[str]) -> Tensor | None:
        """As of `TextReader`."""
        return encode_by_two((self._model.text_encoder_2,), (self._model.tokenizer_2,), texts).pooled


class PooledClipReader(ClipReader):
    """CLIP alone for a denoiser of FLUX's kind: its states, and its pooled vector.

    Raises:
        ValueError: more than one chunk, for such a denoiser takes no mask.
    """

    depends_pooled: tuple[str, ...] = ("text_encoder", "tokenizer", "dtype")

    def __init__(self, model: ReadingParts, max_chunks: int) -> None:
        if max_chunks != 1:
            raise ValueError(f"objective.max_text_chunks: a FLUX transformer reads one chunk; expected 1: {max_chunks}")
        super().__init__(model, max_chunks)

    def read(self, texts: Sequence[str], chunks: int | None = None) -> TextStates:
        """As of `TextReader`."""
        found = self._clip(texts)
        return TextStates(found.last_hidden_state, pooled=found.pooler_output)

    def pooled(self, texts: Sequence[str]) -> Tensor:
        """As of `TextReader`."""
        return self._clip(texts).pooler_output

    def _clip(self, texts: Sequence[str]) -> Any:
        ids = split_texts(self._model.tokenizer, texts).ids[:, 0].to(self._model.text_encoder.device)
        return self._model.text_encoder(ids)


class FluxReader(PooledClipReader):
    """FLUX's: the states of T5's encoder, as many of every text, and CLIP's pooled vector.

    Padding is attended to in both, as the published transformers were trained.
    """

    depends: tuple[str, ...] = ("text_encoder_2", "tokenizer_2", "dtype")

    @property
    def length(self) -> int:
        """What T5's tokenizer says, 512 at most."""
        return min(self.tokenizer.model_max_length, LONGEST)

    @property
    def encoder(self) -> Any:
        """T5's."""
        return self._model.text_encoder_2

    @property
    def tokenizer(self) -> Any:
        """T5's."""
        return self._model.tokenizer_2

    def read(self, texts: Sequence[str], chunks: int | None = None) -> TextStates:
        """As of `TextReader`."""
        states = self.encoder(self._padded(texts).to(self.encoder.device)).last_hidden_state
        return TextStates(states, pooled=self.pooled(texts))

    def locate(self, texts: Sequence[str], concepts: Sequence[Sequence[str]]) -> ConceptTokens:
        """As of `TextReader`."""
        return locate_in_rows(self.tokenizer, texts, concepts, self.length, end_tokens=1)

    def cut(self, texts: Sequence[str], name: str, chunks: int | None = None) -> list[list[CutText]]:
        """What T5 does not read; that CLIP's vector knows less of a long text is how FLUX is made."""
        return cut_texts(name, "text encoder", map(len, tokenise(self.tokenizer, texts)), self.length - 1)

    def _padded(self, texts: Sequence[str]) -> Tensor:
        ids = torch.full((len(texts), self.length), self.tokenizer.pad_token_id)
        for row, tokens in zip(ids, tokenise(self.tokenizer, texts), strict=True):
            read = [*tokens[: self.length - 1], self.tokenizer.eos_token_id]
            row[: len(read)] = torch.tensor(read)
        return ids


def clip_reader(model: ReadingParts) -> ClipReader:
    """The reader of a UNet's text encoders, Stable Diffusion's or SDXL's; one chunk of 77 tokens."""
    return ClipReader(model, max_chunks=1) if model.text_encoder_2 is None else SDXLReader(model)


def reader_of(model: ReadingParts, reads_pooled: bool, max_chunks: int) -> TextReader:
    """The reader of a model's text encoders.

    Args:
        model: its parts; without `text_encoder_2`, CLIP gives states too.
        reads_pooled: of its denoiser's kind.
        max_chunks: of a text.

    Raises:
        ValueError: several chunks where one is read.
    """
    if not reads_pooled:
        return ClipReader(model, max_chunks)
    return PooledClipReader(model, max_chunks) if model.text_encoder_2 is None else FluxReader(model, max_chunks)
