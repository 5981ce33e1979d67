"""Captions made of tags: the golden ones, their order, and that CLIP reads them whole."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
from open_clip.tokenizer import SimpleTokenizer
from transformers import CLIPTokenizer

from datamodules.convert.tag_captions import MAX_TOKENS, TagCaptions, Tags, spoken

FREQUENT = [
    "1girl",
    "solo",
    "long_hair",
    "smile",
    "blush",
    "short_hair",
    "open_mouth",
    "blue_eyes",
    "skirt",
    "hair_ornament",
    "multiple_girls",
    "1boy",
    "hat",
    "ribbon",
    "2girls",
    "touhou",
    "long_sleeves",
    "school_uniform",
    "vocaloid",
    "hatsune_miku",
    "animal_ears",
    "sky",
]
"""Tags from the most frequent one on; each is on one post less than the one before."""
MANY = tuple(f"very_long_tag_number_{n}" for n in range(30))
GOLDEN = [
    (Tags(("solo", "1girl")), "1girl, solo", 0),
    (Tags(("smile", "long_hair", "1girl")), "1girl, long hair, smile", 0),
    (Tags(("solo",), character=("hatsune_miku",)), "solo, hatsune miku", 0),
    (Tags(("smile",), copyright=("vocaloid",), character=("hatsune_miku",)), "hatsune miku, vocaloid, smile", 0),
    (Tags(("sky", "no_humans"), ("someone",)), "no humans, sky", 0),
    (Tags(("hat", "2girls", "multiple_girls")), "multiple girls, 2girls, hat", 0),
    (Tags(("1boy", "blush", "1girl")), "1girl, 1boy, blush", 0),
    (Tags(("6+girls", "multiple_boys", "3others", "sky")), "3others, 6+girls, multiple boys, sky", 0),
    (Tags(("solo_focus", "2girls")), "2girls, solo focus", 0),
    (
        Tags(("1girl",), character=("hatsune_miku_(append)", "hatsune_miku")),
        "1girl, hatsune miku, hatsune miku (append)",
        0,
    ),
    (Tags(("^_^", "o_o", ">_<", "t-shirt")), ">_<, ^_^, o_o, t-shirt", 0),
    (Tags(("unseen_b", "unseen_a", "sky")), "sky, unseen a, unseen b", 0),
    (Tags(("touhou", "1girl"), copyright=("touhou",)), "1girl, touhou", 0),
    (Tags(MANY), ", ".join(spoken(tag) for tag in sorted(MANY)[:11]), 19),
    (Tags(artist=("someone",)), "", 0),
]


@cache
def captions(artists: bool = False) -> TagCaptions:
    return TagCaptions({tag: len(FREQUENT) - place for place, tag in enumerate(FREQUENT)}, artists)


@cache
def clip_tokenizer() -> CLIPTokenizer:
    """transformers' tokenizer of CLIP ViT-L/14, of the vocabulary that open_clip brings."""
    own = SimpleTokenizer()
    marks = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {marks.get(word, word): number for word, number in own.encoder.items()}
    return CLIPTokenizer(vocab=vocab, merges=list(own.bpe_ranks), model_max_length=77)


@pytest.mark.parametrize(("tags", "text", "cut"), GOLDEN)
def test_the_golden_captions(tags: Tags, text: str, cut: int) -> None:
    assert captions().caption(tags) == (text, cut)


def test_artists_come_after_copyrights_where_they_are_wanted() -> None:
    tags = Tags(("smile",), ("someone",), ("vocaloid",), ("hatsune_miku",))
    assert captions(artists=True).caption(tags).text == "hatsune miku, vocaloid, someone, smile"


def test_no_frequency_goes_by_names_alone() -> None:
    assert TagCaptions(Counter()).caption(Tags(("b", "a", "solo"))).text == "solo, a, b"


@pytest.mark.parametrize(
    "tags", [Tags(tuple(FREQUENT), character=MANY[20:]), Tags(MANY), *(Tags((f"({n}", *MANY[n:])) for n in range(10))]
)
def test_clips_tokenizer_reads_them_whole_and_one_tag_more_would_not_fit(tags: Tags) -> None:
    maker = captions()
    text, cut = maker.caption(tags)
    words = [spoken(tag) for tag in maker.ordered(tags)]
    longer = ", ".join(words[: len(words) - cut + 1])
    assert cut and text == ", ".join(words[: len(words) - cut])
    whole, too_long = (clip_tokenizer()(each, verbose=False).input_ids for each in (text, longer))
    assert len(whole) <= MAX_TOKENS + 2 < len(too_long)
