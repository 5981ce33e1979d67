"""The committed words: every text of the small worlds is made of them, and each is one entry of each tokenizer."""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from datamodules.schema import TEXT_FIELDS
from datamodules.tinyworld.contents import CONTENTS
from datamodules.tinyworld.inferable import facts
from datamodules.tinyworld.sample import Sample, draw_sample
from datamodules.tinyworld.splits import SPLITS
from datamodules.tinyworld.subjects import ANGLES
from datamodules.tinyworld.world import LEVELS
from experiments.tiny_backbones import word_list
from experiments.tiny_backbones.prompt import format_prompt
from experiments.tiny_backbones.tokenizers import write_tokenizers
from experiments.tiny_backbones.word_list import PLACEHOLDERS, read_word_list

KINDS = ("clip", "llama", "blip2")


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreTrainedTokenizerBase]:
    """The tokenizers of the committed list, by kind."""
    root = tmp_path_factory.mktemp("words")
    write_tokenizers(read_word_list(), root)
    return {kind: AutoTokenizer.from_pretrained(root / kind) for kind in KINDS}


def cut_words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Words of a text that are more than one token, or of which the tokenizer knows nothing."""
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True).offset_mapping
    starts = {start + (text[start:end][:1] == " ") for start, end in spans}
    words = [match.span() for match in re.finditer(r"[A-Za-z]+", text)]
    return [text[start:end] for start, end in words if starts & set(range(start + 1, end))]


def texts_of(sample: Sample) -> Iterator[str]:
    yield from (sample[field] for field in TEXT_FIELDS if sample.get(field))
    yield from (value for name, value in sample["metadata"].items() if name == "expressive_blind")
    yield format_prompt(sample["instruction"], sample["source_caption"])


def scene_texts(level: str) -> Iterator[str]:
    for split in SPLITS:
        if level == "full" or split != "unseen_photographs":
            for index in range(30):
                yield from texts_of(draw_sample(0, split, index, level=level))


def inferable_texts() -> Iterator[str]:
    yield from facts()
    for split in ("train", "test"):
        for index in range(60):
            yield from texts_of(draw_sample(0, split, index, kinds=("inferable",)))


def content_texts(name: str) -> Iterator[str]:
    for split in CONTENTS[name].splits:
        for index in range(25):
            yield from texts_of(CONTENTS[name].draw(0, split, index))


WORLDS = {
    **{level: partial(scene_texts, level) for level in LEVELS},
    "inferable": inferable_texts,
    **{name: partial(content_texts, name) for name in CONTENTS},
}


def test_the_committed_file_is_what_the_tables_give():
    assert word_list.WORDS_FILE.read_text(encoding="utf-8") == word_list.as_text()


@pytest.mark.parametrize("kind", KINDS)
def test_each_word_is_one_token_behind_a_blank(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]):
    words = [word for word in read_word_list().words if kind == "llama" or word not in PLACEHOLDERS]
    found = {word: tokenizers[kind].tokenize(" " + word) for word in words}
    assert {word: tokens for word, tokens in found.items() if len(tokens) != 1} == {}


@pytest.mark.parametrize("kind", KINDS)
def test_each_bare_word_is_one_token_behind_a_line_break(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]):
    words = [word for word in read_word_list().bare if kind == "llama" or word not in PLACEHOLDERS]
    breaks = len(tokenizers[kind].tokenize("\n"))
    found = {word: tokenizers[kind].tokenize("\n" + word) for word in words}
    assert {word: tokens for word, tokens in found.items() if len(tokens) != 1 + breaks} == {}


@pytest.mark.parametrize("kind", ("clip", "blip2"))
def test_placeholders_are_marks_a_word_and_a_digit_where_texts_are_cut_at_marks(
    kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]
):
    found = {len(tokenizers[kind].tokenize(placeholder)) for placeholder in PLACEHOLDERS}
    assert found == {5}


UNKNOWN = {"subjects_in_words": {*ANGLES, "pixels", "wide", "turned", "degrees"}}
"""Words of a world that came after the tokenizers, whose vocabulary the trained backbones hold on to."""


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_word_of_a_world_falls_into_pieces(world: str, kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]):
    texts = sorted(set(WORLDS[world]()))
    assert len(texts) > 200
    cut = {word for text in texts for word in cut_words(tokenizers[kind], text)}
    assert cut - UNKNOWN.get(world, set()) == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_of_no_world_does_fall_into_pieces(kind: str, tokenizers: dict[str, PreTrainedTokenizerBase]):
    assert cut_words(tokenizers[kind], "make the circle zygomorphic") == ["zygomorphic"]


def test_a_line_that_is_no_word_is_named(tmp_path: Path):
    file = tmp_path / "words.txt"
    file.write_text("# some\nred\ntwo words\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"line 3: expected one word .* found 'two words'"):
        read_word_list(file)
