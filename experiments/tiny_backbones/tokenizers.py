"""Tokenizers of the tiny backbones, made of one list of words and written in the published layouts.

CLIP's is end-of-word BPE, LLaMA's metaspace BPE with byte fallback, OPT's byte-level BPE with an image placeholder.
Which words there are says `words.txt` (see `word_list`), what a vocabulary is made of is decided here; the files are in
`tokenizer_layouts`. Each word is one entry of each vocabulary; a placeholder is one of LLaMA's alone, for CLIP and OPT
cut texts at marks before they look for entries: `<`, `image`, `:`, `0`, `>`.
"""

import string
from collections.abc import Callable, Iterable
from pathlib import Path

from experiments.tiny_backbones.merges import Merges, byte_letters, learn_merges
from experiments.tiny_backbones.tokenizer_layouts import (
    BOS,
    EOS,
    IMAGE_TOKEN,
    OPT_SPECIALS,
    save_clip_tokenizer,
    save_llama_tokenizer,
    save_opt_tokenizer,
)
from experiments.tiny_backbones.word_list import WORDS_FILE, WordList, read_word_list
from mmig.base.commands import OptionParser

Made = tuple[dict[str, int], Merges]
"""Ids by entry, and merges in their order."""

MAX_VOCABULARY = 2000
"""Entries a tiny tokenizer may have; the published 49,408-row table alone would eat the budget of assets/tiny."""

LLAMA_BLANK, OPT_BLANK = "▁", "Ġ"
"""What stands for a blank in entries."""


def clip_tokenizer(words: WordList) -> Made:
    """Vocabulary and merges in the order of CLIP's files: bytes, bytes ending a word, merges, start, end of text.

    The end-of-text token has the highest id, because open_clip pools at the largest id of a row. CLIP lowers all texts.
    """
    found = sorted({word.lower() for word in words.words if word.isalpha()})
    merges = learn_merges((*word[:-1], word[-1] + "</w>") for word in found)
    letters = byte_letters()
    endings = [letter + "</w>" for letter in letters]
    return _numbered([*letters, *endings, *_joined(merges), BOS, EOS]), merges


def llama_tokenizer(words: WordList) -> Made:
    """Vocabulary and merges of a LLaMA-like tokenizer: <unk>, <s>, </s>, 256 byte tokens, printable ASCII, merges.

    Line breaks and letters of other scripts stay byte tokens as in LLaMA.
    """
    merges = learn_merges([*((LLAMA_BLANK, *word) for word in words.words), *map(tuple, words.bare)])
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = [LLAMA_BLANK, *string.ascii_letters, *string.digits, *string.punctuation]
    return _numbered([*specials, *letters, *_joined(merges)]), merges


def opt_tokenizer(words: WordList) -> Made:
    """Vocabulary and merges of an OPT-like tokenizer: four specials, bytes, merges, the image placeholder last."""
    placed = [(OPT_BLANK, *word) for word in words.words if word.isalpha()]
    merges = learn_merges([*placed, *(tuple(word) for word in words.bare if word.isalpha())])
    return _numbered([*OPT_SPECIALS, *byte_letters(), *_joined(merges), IMAGE_TOKEN]), merges


def _joined(merges: Merges) -> list[str]:
    return ["".join(pair) for pair in merges]


def _numbered(entries: Iterable[str]) -> dict[str, int]:
    return {entry: index for index, entry in enumerate(dict.fromkeys(entries))}


def write_tokenizers(words: WordList, out: Path) -> dict[str, int]:
    """Make all three of a list of words and write them below `out`.

    Returns the number of entries by folder: clip and stable-diffusion/tokenizer (the same files), llama, blip2.

    Raises:
        ValueError: more entries than `MAX_VOCABULARY`.
    """
    clip = clip_tokenizer(words)
    parts: dict[str, tuple[Made, Callable[[Path, dict[str, int], Merges], None]]] = {
        "clip": (clip, save_clip_tokenizer),
        "stable-diffusion/tokenizer": (clip, save_clip_tokenizer),
        "llama": (llama_tokenizer(words), save_llama_tokenizer),
        "blip2": (opt_tokenizer(words), save_opt_tokenizer),
    }
    for name, ((vocabulary, _), _) in parts.items():
        if len(vocabulary) > MAX_VOCABULARY:
            raise ValueError(f"{name}: expected at most {MAX_VOCABULARY} entries, found {len(vocabulary)}; drop words")
    for name, ((vocabulary, merges), save) in parts.items():
        save(Path(out) / name, vocabulary, merges)
    return {name: len(vocabulary) for name, ((vocabulary, _), _) in parts.items()}


def main() -> None:
    """Command line: `python -m experiments.tiny_backbones.tokenizers --out assets/tiny`."""
    parser = OptionParser(description=main.__doc__)
    parser.add_argument("--words", type=Path, default=WORDS_FILE, help="the list of words")
    parser.add_argument("--out", type=Path, required=True, help="root of the tiny backbones")
    arguments = parser.parse_args()
    for name, entries in write_tokenizers(read_word_list(arguments.words), arguments.out).items():
        print(f"{arguments.out / name}: {entries} entries")  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
