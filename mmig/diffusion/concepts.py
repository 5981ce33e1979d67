"""Concepts of a response as tokens of the text encoder.

Nothing here warns or logs: what could not be found is counted, for whoever called.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmig.diffusion.text import content_length, split_texts, tokenise

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

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
    if len(texts) != len(concepts):
        raise ValueError(f"concepts: expected one list for each of {len(texts)} texts, found {len(concepts)}")
    content = split_texts(tokenizer, texts, max_chunks).content
    length = content_length(tokenizer)
    spans = [
        _match(tokenizer, ids, tokenise(tokenizer, phrases), max_chunks * length)
        for ids, phrases in zip(tokenise(tokenizer, texts), concepts, strict=True)
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


def _ends_of_words(tokenizer: Any, ids: list[int]) -> list[bool]:
    special = set(tokenizer.all_special_tokens)  # a text may hold "<|endoftext|>"
    ends = [token.endswith(WORD_END) or token in special for token in tokenizer.convert_ids_to_tokens(ids)]
    if ends and not ends[-1]:
        raise ValueError(
            f"concepts: the tokens of {type(tokenizer).__name__} do not mark the end of words with {WORD_END!r}; "
            "give CLIP's tokenizer"
        )
    return ends
