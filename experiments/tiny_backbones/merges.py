"""Byte-pair encoding learnt from words: which pairs are merged, in which order, the same on any machine.

The `tokenizers` trainer breaks ties by the order of a hash table, which changes from run to run.
"""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable

Pair = tuple[str, str]
Merges = list[Pair]


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
    counts = Counter(words)
    pieces, times = list(counts), list(counts.values())
    pairs: Counter[Pair] = Counter()
    holders: dict[Pair, set[int]] = defaultdict(set)
    queue: list[tuple[int, Pair]] = []

    def note(number: int, sign: int) -> set[Pair]:
        found = set(itertools.pairwise(pieces[number]))
        for pair in itertools.pairwise(pieces[number]):
            pairs[pair] += sign * times[number]
            holders[pair].add(number)
        return found

    for pair in set().union(*(note(number, 1) for number in range(len(pieces)))):
        heapq.heappush(queue, (-pairs[pair], pair))
    merges: Merges = []
    while queue and (count is None or len(merges) < count):
        frequency, best = heapq.heappop(queue)
        if not frequency or -frequency != pairs[best]:
            continue  # counted anew since, and queued again with its new frequency
        merges.append(best)
        changed: set[Pair] = set()
        for number in sorted(holders.pop(best)):
            if best in itertools.pairwise(pieces[number]):
                changed |= note(number, -1)
                pieces[number] = _merged(pieces[number], best)
                changed |= note(number, 1)
        for pair in changed - {best}:
            heapq.heappush(queue, (-pairs[pair], pair))
    return merges


def _merged(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    out: list[str] = []
    for piece in word:
        if out and (out[-1], piece) == pair:
            out[-1] += piece
        else:
            out.append(piece)
    return tuple(out)
