"""Texts as Stable Diffusion's text encoder reads them; those longer than its context are encoded in chunks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmig.base.texts import CutText, cut_texts

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


class TextChunks(NamedTuple):
    """Texts as the text encoder reads them: n chunks of L tokens, each with its own start and end.

    Attributes:
        ids: int64 [B,n,L].
        content: bool [B,n,L], True at tokens of the text.
        used: bool [B,n], False at chunks that only fill a shorter row up.
    """

    ids: Tensor
    content: Tensor
    used: Tensor


def split_texts(
    tokenizer: "CLIPTokenizer", texts: Sequence[str], max_chunks: int = 1, min_chunks: int = 1
) -> TextChunks:
    """Tokens of texts in chunks of the tokenizer's `model_max_length` (77: 75 tokens of text).

    Args:
        tokenizer: CLIP's.
        texts: at least one; an empty text has one chunk without content.
        max_chunks: what is longer is cut; 1 is what Stable Diffusion does.
        min_chunks: n at least, to fit another batch.
    """
    if not 1 <= min_chunks <= max_chunks:
        raise ValueError(f"text chunks: expected 1 <= min_chunks <= max_chunks, found {min_chunks} and {max_chunks}")
    length = content_length(tokenizer)
    rows = [row[: max_chunks * length] for row in tokenise(tokenizer, texts)]
    counts = torch.tensor([max(1, -(-len(row) // length)) for row in rows])
    number = max(min_chunks, int(counts.max()))
    ids = torch.full((len(rows), number, length + 2), tokenizer.pad_token_id)
    content = torch.zeros(ids.shape, dtype=torch.bool)
    for row, chunks, marks in zip(rows, ids, content, strict=True):
        for index in range(number):
            part = row[index * length : (index + 1) * length]
            encoded = [tokenizer.bos_token_id, *part, tokenizer.eos_token_id]
            chunks[index, : len(encoded)] = torch.tensor(encoded)
            marks[index, 1 : 1 + len(part)] = True
    return TextChunks(ids, content, torch.arange(number) < counts[:, None])


def encode_text(
    text_encoder: "CLIPTextModel",
    tokenizer: "CLIPTokenizer",
    texts: Sequence[str],
    max_chunks: int = 1,
    min_chunks: int = 1,
) -> tuple[Tensor, Tensor | None]:
    """Final hidden states of texts of any length: the chunks are encoded apart and stand side by side.

    Padding inside a chunk is attended to, as Stable Diffusion was trained; a chunk that only fills a row up is not.

    Args:
        text_encoder, tokenizer: Stable Diffusion's.
        texts, max_chunks, min_chunks: as in `split_texts`. The unconditional branch of guidance needs as many chunks
            as the conditional one: give it its number of tokens over the tokenizer's length as `min_chunks`.

    Returns:
        `tokens` and `mask` of a `Conditioning`: states [B,n*L,D]; bool [B,n*L], or None if n is 1.
    """
    chunks = split_texts(tokenizer, texts, max_chunks, min_chunks)
    states = text_encoder(chunks.ids.flatten(0, 1).to(text_encoder.device)).last_hidden_state
    states = states.unflatten(0, chunks.used.shape).flatten(1, 2)
    if chunks.used.shape[1] == 1:
        return states, None
    return states, chunks.used.repeat_interleave(chunks.ids.shape[2], dim=1).to(states.device)


def texts_cut(tokenizer: "CLIPTokenizer", texts: Sequence[str], name: str, max_chunks: int = 1) -> list[list[CutText]]:
    """What `split_texts` cuts of texts, for `EditOutput.extras["cut"]`; `name` is the field that they come from."""
    room = max_chunks * content_length(tokenizer)
    return cut_texts(name, "text encoder", map(len, tokenise(tokenizer, texts)), room)


def tokenise(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids without special tokens, uncut; `verbose` off: that they may be too long is what this module is for."""
    if not texts:
        return []
    return tokenizer([text.strip() for text in texts], add_special_tokens=False, verbose=False)["input_ids"]


def content_length(tokenizer: Any) -> int:
    """Tokens of text that a chunk has room for."""
    length = tokenizer.model_max_length
    if not 3 <= length <= 100_000:  # transformers' stand-in for "not set" is 1e30
        raise ValueError(f"tokenizer of the text encoder: model_max_length must be set (CLIP's is 77), found {length}")
    return length - 2
