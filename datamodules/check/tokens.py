"""How long a text is for a tokenizer: by a real one, or at least, by its words and signs."""

from __future__ import annotations

import re

from datamodules.check.study import Length

BEGIN_AND_END = 2
"""Tokens that CLIP's tokenizer and others put around a text."""
NO_LIMIT = 10**6
"""Above this `model_max_length` says that there is none."""
_WORDS = re.compile(r"\w+|[^\w\s]")


def least_length(text: str) -> int:
    """Tokens that a text has at least: a word or sign is one or more, begin and end are two."""
    return len(_WORDS.findall(text)) + BEGIN_AND_END


def open_length(tokenizer: str | None, most: int | None) -> tuple[Length | None, int | None]:
    """What counts tokens, and how many a text may have.

    Args:
        tokenizer: folder or hub id, read by transformers; None counts words and signs, which is too few.
        most: tokens; None takes what the tokenizer says.

    Returns:
        (None, None) where nobody says how many.

    Raises:
        ValueError: no tokenizer there, or one that has no limit of its own.
    """
    if tokenizer is None:
        return (None, None) if most is None else (least_length, most)
    from transformers import AutoTokenizer

    try:
        opened = AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ValueError(f"--tokenizer {tokenizer}: expected a folder or hub id of a tokenizer ({reason})") from error
    own = opened.model_max_length
    if most is None and own > NO_LIMIT:
        raise ValueError(f"--tokenizer {tokenizer}: it has no longest text of its own; give --max-tokens")
    return lambda text: len(opened(text, verbose=False).input_ids), most or own
