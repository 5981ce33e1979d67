"""Concepts of a response as tokens of the text encoder, and responses longer than its context, encoded in chunks.

Nothing here warns or logs: what could not be found is counted, for whoever called.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

WORD_END = "</w>"
"""What CLIP's tokens that end a word end with."""


class ConceptTokens(NamedTuple):
    """Where the concepts of a batch are in the encoded responses: K concepts at most, S tokens each, T columns.

    Attributes:
        positions: int64 [B,K,S], columns of the concept's tokens in order, then -1.
        valid: bool [B,K], False where a concept was lost or there is none. Order and K are those of the given
            phrases, so dataset masks [B,K,...] of the same phrases fit.
        content: bool [B,T], columns that hold text: no start, no end, no padding.
        missing: int64 [B], concepts that the response does not have, or not as often as they were given.
        truncated: int64 [B], concepts whose first free place is where the encoder does not read any more.
    """

    positions: Tensor
    valid: Tensor
    content: Tensor
    missing: Tensor
    truncated: Tensor

    def to(self, device: torch.device | str) -> "ConceptTokens":
        """The same on another device."""
        return ConceptTokens(*(value.to(device) for value in self))


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
    length = _content_length(tokenizer)
    rows = [row[: max_chunks * length] for row in _tokenise(tokenizer, texts)]
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


def encode_chunks(
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


def locate_concepts(
    tokenizer: "CLIPTokenizer",
    texts: Sequence[str],
    concepts: Sequence[Sequence[str]],
    max_chunks: int = 1,
    min_chunks: int = 1,
) -> ConceptTokens:
    """Find each concept's tokens in its response: the first place that no other concept has taken.

    Only whole words match. Longer concepts choose first, so that "circle" does not take the circle of "red circle".

    Args:
        tokenizer: CLIP's.
        texts: the responses.
        concepts: phrases of each response, written as in it but for case and spaces.
        max_chunks, min_chunks: those that the responses are encoded with (`encode_chunks`).

    Raises:
        ValueError: another number of texts than of concept lists, or a tokenizer that does not mark the end of words.
    """
    if len(texts) != len(concepts):
        raise ValueError(f"concepts: expected one list for each of {len(texts)} texts, found {len(concepts)}")
    content = split_texts(tokenizer, texts, max_chunks, min_chunks).content
    length = _content_length(tokenizer)
    spans = [
        _match(tokenizer, ids, _tokenise(tokenizer, phrases), max_chunks * length)
        for ids, phrases in zip(_tokenise(tokenizer, texts), concepts, strict=True)
    ]
    most = max(len(row.places) for row in spans)
    longest = max([1, *(len(place) for row in spans for place in row.places if place is not None)])
    positions = torch.full((len(texts), most, longest), -1)
    for row, found in zip(positions, spans, strict=True):
        for slot, place in zip(row, found.places, strict=False):  # rows have as many slots as the longest list
            if place is not None:
                # each chunk before this token and its own start token shift it
                slot[: len(place)] = torch.tensor([index + 1 + 2 * (index // length) for index in place])
    return ConceptTokens(
        positions,
        (positions >= 0).any(dim=2),
        content.flatten(1),
        torch.tensor([row.missing for row in spans]),
        torch.tensor([row.truncated for row in spans]),
    )


class _Match(NamedTuple):
    places: list[range | None]
    missing: int
    truncated: int


def _match(tokenizer: Any, ids: list[int], phrases: list[list[int]], limit: int) -> _Match:
    """Places of the phrases in one text's ids that end within the first `limit` ids."""
    ends = _ends_of_words(tokenizer, ids)
    free = [True] * len(ids)
    places: list[range | None] = [None] * len(phrases)
    missing = truncated = 0
    for number in sorted(range(len(phrases)), key=lambda n: -len(phrases[n])):
        phrase = phrases[number]
        starts = (
            start
            for start in range(len(ids) - len(phrase) + 1)
            if phrase
            and ids[start : start + len(phrase)] == phrase
            and (start == 0 or ends[start - 1])
            and all(free[start : start + len(phrase)])
        )
        start = next(starts, None)
        if start is None:
            missing += 1
            continue
        free[start : start + len(phrase)] = [False] * len(phrase)
        if start + len(phrase) > limit:
            truncated += 1
        else:
            places[number] = range(start, start + len(phrase))
    return _Match(places, missing, truncated)


def _tokenise(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Ids without special tokens, uncut; `verbose` off: that they may be too long is what this module is for."""
    if not texts:
        return []
    return tokenizer([text.strip() for text in texts], add_special_tokens=False, verbose=False)["input_ids"]


def _ends_of_words(tokenizer: Any, ids: list[int]) -> list[bool]:
    special = set(tokenizer.all_special_tokens)  # a text may hold "<|endoftext|>"
    ends = [token.endswith(WORD_END) or token in special for token in tokenizer.convert_ids_to_tokens(ids)]
    if ends and not ends[-1]:
        raise ValueError(
            f"concepts: the tokens of {type(tokenizer).__name__} do not mark the end of words with {WORD_END!r}; "
            "give CLIP's tokenizer"
        )
    return ends


def _content_length(tokenizer: Any) -> int:
    length = tokenizer.model_max_length
    if not 3 <= length <= 100_000:  # transformers' stand-in for "not set" is 1e30
        raise ValueError(f"tokenizer of the text encoder: model_max_length must be set (CLIP's is 77), found {length}")
    return length - 2
