"""The tiny tokenizers: published layouts, published loaders, ids where the models expect them."""

import itertools
import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from experiments.tiny_backbones import tokenizers as tok
from experiments.tiny_backbones.prompt import encode, format_prompt
from experiments.tiny_backbones.word_list import WordList
from tests.experiments.tiny_backbones.toy import WORDS, caption

FILES = {"vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json"}


def test_clip_layout_is_that_of_stable_diffusion(tokenizer_root: Path):
    assert {file.name for file in (tokenizer_root / "clip").iterdir()} == FILES
    assert AutoTokenizer.from_pretrained(tokenizer_root / "clip").model_max_length == 77


def test_clip_ids_start_and_end_with_the_two_highest(tokenizer_root: Path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_root / "clip")
    ids = tokenizer("A RED square").input_ids
    assert (ids[0], ids[-1]) == (len(tokenizer) - 2, len(tokenizer) - 1)
    assert ids == tokenizer("a red square").input_ids


def test_clip_vocabulary_is_in_the_order_of_the_published_file(tokenizer_root: Path):
    vocabulary = json.loads((tokenizer_root / "clip" / "vocab.json").read_text(encoding="utf-8"))
    assert (vocabulary["!"], vocabulary["~"], vocabulary["!</w>"]) == (0, 93, 256)


@pytest.mark.parametrize("kind", ["clip", "llama", "blip2"])
def test_a_known_word_is_one_token(tokenizer_root: Path, kind: str):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_root / kind)
    words = len(caption("red", "left").replace(".", " .").split())
    assert len(tokenizer(" " + caption("red", "left"), add_special_tokens=False).input_ids) <= words + 1


@pytest.mark.parametrize("kind", ["llama", "blip2"])
def test_any_text_survives(tokenizer_root: Path, kind: str):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_root / kind)
    text = "A zebra (№ 7)\nat the left."
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_llama_line_break_is_a_byte_token(tokenizer_root: Path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_root / "llama")
    assert "<0x0A>" in tokenizer.tokenize(format_prompt("Make the square red."))


def test_llama_answer_has_the_same_ids_apart_and_behind_the_prompt(tokenizer_root: Path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_root / "llama")
    prompt, answer = encode(tokenizer, format_prompt("Make the square red."), caption("red", "left"))
    joined = tokenizer(format_prompt("Make the square red.") + " " + caption("red", "left")).input_ids
    assert [*prompt, *answer] == [*joined, tokenizer.eos_token_id]


def test_opt_starts_every_text_and_knows_the_image_placeholder(tokenizer_root: Path):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_root / "blip2")
    ids = tokenizer("<image>red").input_ids
    assert ids[:2] == [tokenizer.convert_tokens_to_ids("</s>"), len(tokenizer) - 1]


@pytest.mark.parametrize("make", [tok.clip_tokenizer, tok.llama_tokenizer, tok.opt_tokenizer])
def test_ids_are_numbered_without_gaps(make):
    vocabulary, merges = make(WORDS)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert all("".join(pair) in vocabulary for pair in merges)


def test_too_many_words_are_an_error_and_nothing_is_written(tmp_path: Path):
    words = tuple("".join(letters) for letters in itertools.product("abcdefghij", repeat=3))
    many = WordList(tuple(word + word[::-1] + word for word in words), ())
    with pytest.raises(ValueError, match="expected at most 2000 entries"):
        tok.write_tokenizers(many, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_words_give_the_same_files(tokenizer_root: Path, tmp_path: Path):
    tok.write_tokenizers(WORDS, tmp_path)
    for file in (file for file in tmp_path.rglob("*") if file.is_file()):
        assert file.read_bytes() == (tokenizer_root / file.relative_to(tmp_path)).read_bytes()
