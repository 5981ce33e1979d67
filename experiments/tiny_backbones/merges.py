"""Byte-pair encoding learnt from words: which pairs are merged, in which order, the same on any machine.

The `tokenizers` trainer breaks ties by the order of a hash table, which changes from run to run.
"""

import itertools
from collections import Counter
from collections.abc import Iterable

Merges = list[tuple[str, str]]


def byte_letters() -> list[str]:
    """The 256 printable letters that stand for the bytes in byte-level BPE, in GPT-2's order: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(len(rest))]


def learn_merges(words: Iterable[tuple[str, ...]], count: int | None = None) -> Merges:
    """The most frequent merges of pieces, one after the other, ties in alphabetical order.

    Args:
        words: their pieces; a word that comes twice counts twice.
        count: how many merges; by default as many as make one piece of every word.
    """
    counts, merges = Counter(words), []
    while count is None or len(merges) < count:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, times in counts.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, times in counts.items():
            merged[_merged(word, best)] += times
        counts = merged
    return merges


def _merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)
