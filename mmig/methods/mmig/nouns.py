"""A guess at what a text speaks of, where nobody gave the concepts: nouns by stop words, without a tagger."""

import re

MOST = 8
"""Nouns that are taken of a text."""


def nouns(text: str) -> list[str]:
    """Words of a text that are probably nouns, for attention at inference; the user's own list is always better.

    Articles, prepositions, places, punctuation and the like separate groups of words; of each group the last word that
    is no colour, size or the like counts, "-ing" and "-ly" forms only if there is no other. "a dog running on the wet
    beach" gives ["dog", "beach"].

    Returns:
        At most `MOST` different words in lower case, in the order of the text; each is a whole word of it, so that
        `locate_concepts` finds it.
    """
    return [phrase[-1] for phrase in noun_phrases(text)][:MOST]


def noun_phrases(text: str) -> list[list[str]]:
    """The nouns of a text, each with the words of its group before it: "a wet beach" gives [["wet", "beach"]].

    In lower case, in the order of the text; of a noun that comes twice the first.
    """
    found: dict[str, list[str]] = {}
    group: list[str] = []
    for word in [*re.findall(r"[^\W\d_]+|[^\w\s-]|\d+", text.lower()), "."]:
        if word.isalpha() and word not in _STOP_WORDS:
            group.append(word)
            continue
        words = [each for each in group if each not in _ATTRIBUTES]
        heads = [each for each in words if not _VERB_OR_ADVERB.search(each)] or words
        if heads:
            last = len(group) - group[::-1].index(heads[-1])
            found.setdefault(heads[-1], group[:last])
        group = []
    return list(found.values())


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_GRAMMAR = """
    a an the this that these those it its his her their he she they there here who which what s
    is are was were be been being has have had do does did will would can could should may must
    of on in at to from by with without for and or but nor as into onto over under above below behind before after
    between among beside besides near next against along across around through inside outside within up down off out
    about not no only also now then still very more most less while when where so than too just all both each every
    some any many several few other another same one two three four five six seven eight nine ten
"""
_PICTURE = """
    top bottom left right centre center middle side front back corner foreground
    picture image photo photograph drawing painting scene view result
"""
_VERBS = """
    show shows shown see seen sit sits stand stands lie lies hold holds wear wears look looks appear appears become
    becomes turn turns turned made make makes keep keeps remain remains unchanged gone
"""
_VERB_OR_ADVERB = re.compile(r"[aeiouy].*(ing|ly)$")  # "running" but not "ring"
_STOP_WORDS = _words(_GRAMMAR + _PICTURE + _VERBS)
_ATTRIBUTES = _words(
    """
    red green blue yellow orange purple pink brown black white grey gray golden silver dark light bright colourful
    colorful small large big tiny huge little tall short long wide narrow old new young striped dotted dashed plain
    solid wooden wet dry soft hard hot cold beautiful pretty clear different
    """
)
