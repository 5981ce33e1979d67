"""Concepts as tokens of CLIP, long responses in chunks, guessed nouns; with the shipped tiny tokenizer and encoder."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.backbones.diffusion import load_text_encoder, load_tokenizer, load_unet
from mmig.diffusion.concepts import locate_concepts
from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.text import encode_text, split_texts
from mmig.methods.mmig.nouns import nouns
from tests.tiny_fixtures import build_stable_diffusion

TEXT = "a small red circle at the top left and a large circle on the right, on a blue background."


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stable_diffusion(tmp_path_factory.mktemp("backbones") / "stable-diffusion")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def words_at(tokenizer: Any, text: str, columns: list[int], max_chunks: int = 1) -> str:
    """Text of the tokens at columns of the encoded text, read back from the ids that the encoder gets."""
    ids = split_texts(tokenizer, [text], max_chunks).ids.flatten()
    return tokenizer.decode(ids[columns]).strip()


def columns_of(tokens: Any, row: int, number: int) -> list[int]:
    return [column for column in tokens.positions[row, number].tolist() if column >= 0]


def test_concepts_are_found_at_their_words(tokenizer: Any) -> None:
    phrases = ["small red circle", "large circle", "blue background"]
    tokens = locate_concepts(tokenizer, [TEXT], [phrases])
    assert tokens.valid.tolist() == [[True, True, True]]
    for number, phrase in enumerate(phrases):
        columns = columns_of(tokens, 0, number)
        assert words_at(tokenizer, TEXT, columns) == phrase
        assert columns == list(range(columns[0], columns[-1] + 1))
    assert tokens.missing.tolist() == tokens.truncated.tolist() == [0]


def test_columns_are_those_of_the_padded_ids_of_stable_diffusion(tokenizer: Any) -> None:
    plain = tokenizer([TEXT], padding="max_length", max_length=77, truncation=True).input_ids[0]
    assert split_texts(tokenizer, [TEXT]).ids[0, 0].tolist() == plain
    tokens = locate_concepts(tokenizer, [TEXT], [["circle"]])
    (column,) = columns_of(tokens, 0, 0)
    assert plain[column] == tokenizer("circle", add_special_tokens=False).input_ids[0]
    assert plain.index(plain[column]) == column  # the first one; the start token is column 0
    assert tokens.content[0].tolist() == [i not in (tokenizer.bos_token_id, tokenizer.eos_token_id) for i in plain]


def test_one_phrase_twice_takes_two_places(tokenizer: Any) -> None:
    tokens = locate_concepts(tokenizer, [TEXT], [["circle", "circle", "circle"]])
    first, second = columns_of(tokens, 0, 0), columns_of(tokens, 0, 1)
    assert first < second
    assert words_at(tokenizer, TEXT, first) == words_at(tokenizer, TEXT, second) == "circle"
    assert tokens.valid.tolist() == [[True, True, False]]
    assert tokens.missing.tolist() == [1]


@pytest.mark.parametrize("phrases", [["circle", "small red circle"], ["small red circle", "circle"]])
def test_a_short_phrase_leaves_the_long_one_its_words(tokenizer: Any, phrases: list[str]) -> None:
    tokens = locate_concepts(tokenizer, [TEXT], [phrases])
    assert tokens.missing.tolist() == [0]
    columns = {phrase: columns_of(tokens, 0, number) for number, phrase in enumerate(phrases)}
    assert columns["circle"][0] > columns["small red circle"][-1]


def test_only_whole_words_match(tokenizer: Any) -> None:
    pieces = tokenizer.tokenize("greenish redcircle")
    assert len(pieces) > 2  # the vocabulary splits these words
    last = next(piece for piece in reversed(pieces) if piece.endswith("</w>")).removesuffix("</w>")
    assert "redcircle".endswith(last)
    tokens = locate_concepts(tokenizer, ["greenish redcircle"], [["circle", "red", "green", last]])
    assert tokens.valid.tolist() == [[False] * 4]
    assert tokens.missing.tolist() == [4]
    assert locate_concepts(tokenizer, [f"greenish {last}"], [[last]]).valid.all()


def test_case_spaces_and_punctuation_around_do_not_matter(tokenizer: Any) -> None:
    text = "A Red  Circle,(blue square)."
    tokens = locate_concepts(tokenizer, [text], [[" red circle ", "Blue Square"]])
    assert tokens.missing.tolist() == [0]
    assert words_at(tokenizer, text, columns_of(tokens, 0, 1)) == "blue square"


def test_rows_differ_in_concepts(tokenizer: Any) -> None:
    texts = [TEXT, "", "a red star."]
    tokens = locate_concepts(tokenizer, texts, [["circle", "blue background"], ["star"], []])
    assert tokens.positions.shape[:2] == tokens.valid.shape == (3, 2)
    assert tokens.valid.tolist() == [[True, True], [False, False], [False, False]]
    assert tokens.missing.tolist() == [0, 1, 0]
    assert not tokens.content[1].any()


def test_no_concepts_at_all(tokenizer: Any) -> None:
    tokens = locate_concepts(tokenizer, [TEXT, TEXT], [[], []])
    assert tokens.valid.shape == (2, 0)
    assert tokens.positions.shape[:2] == (2, 0)
    assert tokens.positions.shape[2] >= 1


def test_empty_phrases_and_special_words_are_missing(tokenizer: Any) -> None:
    tokens = locate_concepts(tokenizer, ["a star <|endoftext|>", "a star"], [["", "star"], ["  ", "circle"]])
    assert tokens.valid.tolist() == [[False, True], [False, False]]
    assert tokens.missing.tolist() == [1, 2]


def long_text(tokenizer: Any, before: int) -> str:
    """A text whose concept, "red star", begins behind `before` tokens."""
    text = "a " * before + "red star."
    assert (
        tokenizer(text, add_special_tokens=False, verbose=False).input_ids.index(
            tokenizer("red", add_special_tokens=False).input_ids[0]
        )
        == before
    )
    return text


@pytest.mark.parametrize(("before", "kept"), [(73, True), (74, False), (75, False), (200, False)])
def test_concepts_behind_the_end_are_counted_as_truncated(
    tokenizer: Any, before: int, kept: bool, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = locate_concepts(tokenizer, [long_text(tokenizer, before)], [["red star", "circle"]])
    assert tokens.valid.tolist() == [[kept, False]]
    assert tokens.truncated.tolist() == [0 if kept else 1]
    assert tokens.missing.tolist() == [1]
    assert tokens.content.shape == (1, 77)
    assert not caplog.records


@pytest.mark.parametrize("before", [73, 74, 75, 149, 200])
def test_concepts_in_later_chunks_are_found(tokenizer: Any, before: int) -> None:
    text = long_text(tokenizer, before)
    tokens = locate_concepts(tokenizer, [text], [["red star"]], max_chunks=4)
    columns = columns_of(tokens, 0, 0)
    assert words_at(tokenizer, text, columns, max_chunks=4) == "red star"
    # 77 columns a chunk, the first of each its start token
    assert columns == [77 * (index // 75) + 1 + index % 75 for index in (before, before + 1)]
    assert tokens.content.shape == (1, 77 * (1 + (before + 2) // 75))
    assert tokens.content[0, columns].all()


def test_chunks_have_their_own_start_and_end(tokenizer: Any) -> None:
    ids = tokenizer(long_text(tokenizer, 160), add_special_tokens=False, verbose=False).input_ids
    chunks = split_texts(tokenizer, [long_text(tokenizer, 160), "a star"], max_chunks=5)
    assert chunks.ids.shape == (2, 3, 77)
    assert chunks.used.tolist() == [[True, True, True], [True, False, False]]
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    assert chunks.ids[0].tolist() == [
        [start, *ids[:75], end],
        [start, *ids[75:150], end],
        [start, *ids[150:], end, *[pad] * (75 - len(ids[150:]))],
    ]
    assert chunks.ids[1, 1].tolist() == [start, end, *[pad] * 75]
    assert chunks.content[0].sum().item() == len(ids)
    assert chunks.ids[0][chunks.content[0]].tolist() == ids


def test_a_text_of_75_tokens_is_one_chunk(tokenizer: Any) -> None:
    assert split_texts(tokenizer, ["a " * 75], max_chunks=3).ids.shape[1] == 1
    assert split_texts(tokenizer, ["a " * 76], max_chunks=3).ids.shape[1] == 2


def test_one_chunk_is_what_stable_diffusion_encodes(folder: Path, tokenizer: Any) -> None:
    encoder = load_text_encoder(folder)
    texts = [TEXT, "", "a " * 120]
    states, mask = encode_text(encoder, tokenizer, texts)
    assert mask is None
    padded = tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    assert torch.equal(states, encoder(padded.input_ids).last_hidden_state)


def test_long_texts_are_their_chunks_side_by_side(folder: Path, tokenizer: Any) -> None:
    encoder = load_text_encoder(folder)
    words = ("red star blue circle " * 30).split()
    assert all(len(tokenizer.tokenize(word)) == 1 for word in set(words))
    states, mask = encode_text(encoder, tokenizer, [" ".join(words), "a star"], max_chunks=2)
    parts, _ = encode_text(encoder, tokenizer, [" ".join(words[:75]), " ".join(words[75:]), "a star"])
    torch.testing.assert_close(states[0], parts[:2].flatten(0, 1))
    torch.testing.assert_close(states[1, :77], parts[2])
    assert mask.tolist() == [[True] * 154, [True] * 77 + [False] * 77]


def test_a_short_text_does_not_depend_on_a_long_neighbour(folder: Path, tokenizer: Any) -> None:
    encoder, unet = load_text_encoder(folder), load_unet(folder)
    noisy = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    together = Conditioning(*encode_text(encoder, tokenizer, ["a star", "a " * 100], max_chunks=2))
    alone = Conditioning(*encode_text(encoder, tokenizer, ["a star"], max_chunks=2))
    expected = denoise(unet, noisy[:1], torch.tensor([500]), alone)
    found = denoise(unet, noisy, torch.tensor([500, 500]), together)
    torch.testing.assert_close(found[:1], expected, atol=1e-5, rtol=1e-5)
    # and the unconditional branch fits the long one
    null, mask = encode_text(encoder, tokenizer, ["", ""], max_chunks=2, min_chunks=2)
    assert null.shape == together.tokens.shape
    assert mask.tolist() == [[True] * 77 + [False] * 77] * 2


def test_gradients_reach_a_trainable_text_encoder(folder: Path, tokenizer: Any) -> None:
    encoder = load_text_encoder(folder, frozen=False)
    encode_text(encoder, tokenizer, ["a " * 100], max_chunks=2)[0].square().mean().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_what_does_not_fit_is_refused(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="one list for each of 2 texts, found 1"):
        locate_concepts(tokenizer, [TEXT, TEXT], [["circle"]])
    with pytest.raises(ValueError, match="1 <= min_chunks <= max_chunks, found 3 and 2"):
        split_texts(tokenizer, [TEXT], max_chunks=2, min_chunks=3)


def test_other_tokenizers_are_refused(tokenizer: Any) -> None:
    class OtherMarks:
        """CLIP's tokenizer as one that marks the beginning of words."""

        model_max_length, all_special_tokens = 77, ()
        bos_token_id = eos_token_id = pad_token_id = 0

        def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1] * len(text.split()) for text in texts]}

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return ["\u2581word" for _ in ids]

    with pytest.raises(ValueError, match="OtherMarks do not mark the end of words with '</w>'; give CLIP's"):
        locate_concepts(OtherMarks(), [TEXT], [["circle"]])  # type: ignore[arg-type]
    endless = OtherMarks()
    endless.model_max_length = int(1e30)
    with pytest.raises(ValueError, match="model_max_length must be set"):
        split_texts(endless, [TEXT])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog running on the wet beach", ["dog", "beach"]),
        (TEXT, ["circle", "background"]),
        (
            "Now the picture shows a large red striped star at the bottom left and a small blue ring in the centre, "
            "on a gradient background from red to blue, without the green cross.",
            ["star", "ring", "background", "cross"],
        ),
        ("A lion, with a golden crown; two dogs' bowls.", ["lion", "crown", "dogs", "bowls"]),
        ("a tall building by a spring, a ring and a butterfly", ["building", "spring", "ring", "butterfly"]),
        ("It is very big and red.", []),
        ("", []),
    ],
)
def test_guessed_nouns(text: str, expected: list[str]) -> None:
    assert nouns(text) == expected


def test_guessed_nouns_are_words_of_the_text_and_few(tokenizer: Any) -> None:
    letters = "bcdfghjklmnpqrs"
    text = " and ".join(f"a {letter}ab{letter}a" for letter in letters)
    assert nouns(text) == [word for word in re.findall(r"\w+", text) if len(word) > 3][:8]
    assert locate_concepts(tokenizer, [TEXT], [nouns(TEXT)]).missing.tolist() == [0]
