"""Which tokens of a text the pictures of subjects stand for: p of (y, x_s, p), Ma et al. 2023, section 3.2.

The paper counts words, and every word of its examples is one token. Of a word of several tokens it says nothing; see
`MultiToken` for what is done here.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from datamodules.schema import Span, words_in
from mmig.diffusion.text import content_length, split_texts

MultiToken = Literal["last", "all", "skip"]
"""Of a word of several tokens the pseudo word takes the place of the last, which has read the others (the text encoder
is causal), or of all of them; or there is no pseudo word."""
Reason = Literal["word", "cut", "split", "taken"]
NO_SUBJECT = -1
"""Owner of a token that is a word of the text."""


class SubjectError(ValueError):
    """A subject's picture cannot take the place of a word; one line says which and why."""


class Lost(NamedTuple):
    """A subject whose picture takes no token's place.

    Attributes:
        number: of the attachment.
        reason: "word": it has none in the text; "cut": its word is behind what the text encoder reads; "split": its
            word is of several tokens, and those are skipped; "taken": its word is another subject's already.
        detail: the same in words.
    """

    number: int
    reason: Reason
    detail: str


class PlacedSubjects(NamedTuple):
    """Texts of which some tokens are pictures.

    Attributes:
        texts: y, without placeholders.
        ids: its tokens as the text encoder reads them, int64 [B,L].
        owner: number of the attachment whose picture takes the token's place, else `NO_SUBJECT`, int64 [B,L].
        lost: of each sample the subjects that have no token.
    """

    texts: list[str]
    ids: Tensor
    owner: Tensor
    lost: list[list[Lost]]

    @property
    def has_subject(self) -> Tensor:
        """Whether a sample has a subject in its text, bool [B]."""
        return (self.owner != NO_SUBJECT).any(dim=1)

    def count_lost(self) -> dict[str, float]:
        """Subjects lost for each reason, a sample on average."""
        counts = Counter(each.reason for of_sample in self.lost for each in of_sample)
        return {reason: counts[reason] / len(self.lost) for reason in ("word", "cut", "split", "taken")}


def place_subjects(tokenizer: Any, batch: Mapping[str, Any], field: str, multi_token: MultiToken) -> PlacedSubjects:
    """The texts of a batch, and the tokens that its attached pictures take the place of.

    Args:
        tokenizer: CLIP's.
        batch: see `datamodules.schema.Batch`; attachments of other kinds stand for nothing.
        field: of the texts, "target_caption" or "instruction".
        multi_token: see `MultiToken`.
    """
    rows = [words_in(batch, row, field) for row in range(len(batch["key"]))]
    texts = [text for text, _ in rows]
    ids = split_texts(tokenizer, texts).ids[:, 0]
    owner, lost = torch.full_like(ids, NO_SUBJECT), []
    for row, (text, words) in enumerate(rows):
        spans = {number: words[number] for number, kind in enumerate(batch["attachment_kinds"][row]) if kind == "image"}
        tokens, without = subject_tokens(tokenizer, text, spans, multi_token)
        for number, places in tokens.items():
            owner[row, places] = number
        lost.append(without)
    return PlacedSubjects(texts, ids, owner, lost)


def subject_tokens(
    tokenizer: Any, text: str, words: Mapping[int, Span | None], multi_token: MultiToken = "last"
) -> tuple[dict[int, list[int]], list[Lost]]:
    """Tokens of the words of subjects, counted as the text encoder does (the start is 0), and the subjects without.

    Args:
        tokenizer: CLIP's, a fast one.
        text: without placeholders.
        words: of each subject by its number: the characters of its word in the text, None if it has none.
        multi_token: see `MultiToken`.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans, room = found["offset_mapping"], content_length(tokenizer)
    tokens, lost, taken = {}, [], {}
    for number, word in words.items():
        own = [] if word is None else [place for place, span in enumerate(spans) if _overlap(span, word)]
        name = "" if word is None else repr(text[slice(*word)])
        chosen = own if multi_token == "all" else own[-1:]
        if not own:
            detail = "its picture stands for no word of the text; write the word that it shows behind its placeholder"
            lost.append(Lost(number, "word", f"{detail}: <image:{number}> dog"))
        elif other := next((taken[place] for place in own if place in taken), None):
            lost.append(
                Lost(number, "taken", f"its word {name} is that of {other} already; give each a word of its own")
            )
        elif multi_token == "skip" and len(own) > 1:
            advice = "name another word, or set multi_token to last or all"
            lost.append(Lost(number, "split", f"its word {name} is {len(own)} tokens, and those are skipped; {advice}"))
        elif chosen[-1] >= room:
            read = f"token {chosen[-1] + 1} of the text, of which the text encoder reads {room}"
            lost.append(Lost(number, "cut", f"its word {name} is {read}; say it earlier"))
        else:
            tokens[number] = [place + 1 for place in chosen]
            taken |= dict.fromkeys(own, f"subject {number}")
    return tokens, lost


def all_lost(placed: PlacedSubjects, keys: Sequence[str]) -> Iterator[str]:
    """One line for each subject without a token."""
    for key, lost in zip(keys, placed.lost, strict=True):
        yield from (f"sample {key!r}: subject {each.number}: {each.detail}" for each in lost)


def _overlap(one: Span, other: Span) -> bool:
    return one[0] < other[1] and other[0] < one[1]
