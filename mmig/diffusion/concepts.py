"""Concepts of a response as tokens of the text encoder.

Nothing here warns or logs: what could not be found is counted, for whoever called.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmig.diffusion.text import content_length, split_texts, tokenise

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

WORD_END = "</w>"
"""What CLIP's tokens that end a word end with."""
WORD_START = "\u2581"
"""What T5's tokens that begin a word begin with."""


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


def locate_concepts(
    tokenizer: "CLIPTokenizer",
    texts: Sequence[str],
    concepts: Sequence[Sequence[str]],
    max_chunks: int = 1,
) -> ConceptTokens:
    """Find each concept's tokens in its response: the first place that no other concept has taken.

    Only whole words match. Longer concepts choose first, so that "circle" does not take the circle of "red circle".

    Args:
        tokenizer: CLIP's.
        texts: the responses.
        concepts: phrases of each response, written as in it but for case and spaces.
        max_chunks: that the responses are encoded with (`encode_text`).

    Raises:
        ValueError: another number of texts than of concept lists, or a tokenizer that does not mark the end of words.
    """
    length = content_length(tokenizer)
    spans = _spans(tokenizer, texts, concepts, max_chunks * length, _ends_of_words)
    content = split_texts(tokenizer, texts, max_chunks).content.flatten(1)
    # each chunk before a token and its own start token shift it
    return _as_columns(spans, content, lambda index: index + 1 + 2 * (index // length))


def locate_in_rows(
    tokenizer: Any, texts: Sequence[str], concepts: Sequence[Sequence[str]], length: int, end_tokens: int
) -> ConceptTokens:
    """The same among the tokens of an encoder that reads a text from its first column on, such as T5.

    Args:
        tokenizer, texts, concepts: as in `locate_concepts`.
        length: T, columns of a text.
        end_tokens: how many of them stand behind its tokens.
    """
    room = length - end_tokens
    spans = _spans(tokenizer, texts, concepts, room, _before_starts)
    counts = torch.tensor([min(len(ids), room) for ids in tokenise(tokenizer, texts)])
    return _as_columns(spans, torch.arange(length) < counts[:, None], lambda index: index)


def _spans(
    tokenizer: Any,
    texts: Sequence[str],
    concepts: Sequence[Sequence[str]],
    limit: int,
    ends_of_words: Callable[[Any, list[int]], list[bool]],
) -> list["_Match"]:
    if len(texts) != len(concepts):
        raise ValueError(f"concepts: expected one list for each of {len(texts)} texts, found {len(concepts)}")
    return [
        _match(ids, ends_of_words(tokenizer, ids), tokenise(tokenizer, phrases), limit)
        for ids, phrases in zip(tokenise(tokenizer, texts), concepts, strict=True)
    ]


def _as_columns(spans: Sequence["_Match"], content: Tensor, column: Callable[[int], int]) -> ConceptTokens:
    """The places as columns, of which `column` gives that of a token by its index in the text."""
    most = max(len(row.places) for row in spans)
    longest = max([1, *(len(place) for row in spans for place in row.places if place is not None)])
    positions = torch.full((len(spans), most, longest), -1)
    for row, found in zip(positions, spans, strict=True):
        for slot, place in zip(row, found.places, strict=False):  # rows have as many slots as the longest list
            if place is not None:
                slot[: len(place)] = torch.tensor([column(index) for index in place])
    return ConceptTokens(
        positions,
        (positions >= 0).any(dim=2),
        content,
        torch.tensor([row.missing for row in spans]),
        torch.tensor([row.truncated for row in spans]),
    )


class _Match(NamedTuple):
    places: list[range | None]
    missing: int
    truncated: int


def _match(ids: list[int], ends: list[bool], phrases: list[list[int]], limit: int) -> _Match:
    """Places of the phrases in one text's ids, of which some end a word, that end within the first `limit` ids."""
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
            and ends[start + len(phrase) - 1]
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


def _ends_of_words(tokenizer: Any, ids: list[int]) -> list[bool]:
    special = set(tokenizer.all_special_tokens)  # a text may hold "<|endoftext|>"
    ends = [token.endswith(WORD_END) or token in special for token in tokenizer.convert_ids_to_tokens(ids)]
    if ends and not ends[-1]:
        raise ValueError(
            f"concepts: the tokens of {type(tokenizer).__name__} do not mark the end of words with {WORD_END!r}; "
            "give CLIP's tokenizer"
        )
    return ends


def _before_starts(tokenizer: Any, ids: list[int]) -> list[bool]:
    """A word ends before the start of another, before a sign that is no letter, and at the end."""
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [not following[:1].isalnum() for following in [*tokens[1:], WORD_START][: len(tokens)]]
