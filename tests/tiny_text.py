"""Tiny tokenizers with vocabularies learnt on the spot (the same on any machine), in the published folder layouts.

Three families: CLIP's byte-level BPE with end-of-word marks (old two-file layout and new one-file layout), GPT-2-like
byte-level BPE (OPT, LLaMA-3), and SentencePiece-like metaspace BPE with byte fallback (LLaMA-1 and -2). Every
vocabulary has fewer than 2,000 entries.
"""

import json
import re
from pathlib import Path
from typing import Literal

from experiments.tiny_backbones.merges import byte_letters, learn_merges

ClipLayout = Literal["old", "new"]
LlamaTokenizerKind = Literal["metaspace", "bytelevel"]

_SIZES, _COLOURS = ("small", "large"), ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
_SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
_PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
_TEMPLATES = (
    "a {size} {colour} {shape} in the {place}.",
    "remove the {colour} {shape}.",
    "add a {size} {shape} to the {place}, please.",
    "make the {shape} {colour}.",
    "the {colour} {shape} is gone and the background is {colour}.",
    "turn the picture into night, with fog, as line art or in sepia.",
    "move the largest {shape} to the {place} of the image.",
)


def sentences() -> list[str]:
    """A fixed corpus of small-world-like sentences."""
    words = [
        {"size": size, "colour": colour, "shape": shape, "place": place}
        for size in _SIZES
        for colour in _COLOURS
        for shape in _SHAPES
        for place in _PLACES
    ]
    return [template.format(**choice) for template in _TEMPLATES for choice in words]


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=2), encoding="utf-8")


def write_clip_tokenizer(folder: Path, layout: ClipLayout = "old", max_length: int = 77) -> int:
    """Write a CLIP tokenizer and return the size of its vocabulary; ids as in CLIP: bytes, word-final bytes, merges,
    start, end."""
    from transformers import CLIPTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    found = [word for text in sentences() for word in re.findall(r"\w+|[^\w\s]+", text)]
    merges = learn_merges([(*word[:-1], word[-1] + "</w>") for word in found], 150)
    letters = byte_letters()
    pieces = letters + [letter + "</w>" for letter in letters] + ["".join(merge) for merge in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    if layout == "new":
        CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length).save_pretrained(folder)
        return len(vocab)
    special = {"content": "<|endoftext|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True}
    start = special | {"content": "<|startoftext|>"}
    names = {"bos_token": start, "eos_token": special, "unk_token": special, "pad_token": "<|endoftext|>"}
    _write(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    _write(folder / "special_tokens_map.json", names)
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": max_length,
        "do_lower_case": True,
        "errors": "replace",
    }
    typed = {
        name: {"__type": "AddedToken", **value} if isinstance(value, dict) else value for name, value in names.items()
    }
    _write(folder / "tokenizer_config.json", config | {"add_prefix_space": False} | typed)
    return len(vocab)


def write_llama_tokenizer(folder: Path, kind: LlamaTokenizerKind = "metaspace") -> int:
    """Write a LLaMA tokenizer (tokenizer.json) and return the size of its vocabulary; <unk>, <s>, </s> are 0, 1, 2."""
    from transformers import LlamaTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    special = ["<unk>", "<s>", "</s>"]
    if kind == "bytelevel":
        return _write_byte_level(folder, special, bos="<s>", eos="</s>", unk="<unk>", pad=None)
    merges = learn_merges([tuple("▁" + word) for text in sentences() for word in text.split()], 250)
    pieces = special + [f"<0x{byte:02X}>" for byte in range(256)] + ["▁", *map(chr, range(33, 127))]
    vocab = {piece: n for n, piece in enumerate(dict.fromkeys(pieces + ["".join(merge) for merge in merges]))}
    LlamaTokenizer(vocab=vocab, merges=merges, add_bos_token=True, model_max_length=256).save_pretrained(folder)
    return len(vocab)


def write_opt_tokenizer(folder: Path) -> int:
    """Write an OPT tokenizer (byte-level BPE; `</s>` starts and ends a text, <pad> is 1) and return the size of its
    vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    return _write_byte_level(
        folder, ["<s>", "<pad>", "</s>", "<unk>"], bos="</s>", eos="</s>", unk="<unk>", pad="<pad>"
    )


def _write_byte_level(folder: Path, special: list[str], *, bos: str, eos: str, unk: str, pad: str | None) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = byte_letters()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found = [word for text in sentences() for word in re.findall(r" ?\w+| ?[^\w\s]+", text)]
    merges = learn_merges([tuple(word.replace(" ", "Ġ")) for word in found], 250)
    vocab = {
        piece: n for n, piece in enumerate(dict.fromkeys(special + letters + ["".join(merge) for merge in merges]))
    }
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer, tokenizer.decoder = byte_level, decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, vocab[bos])])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, unk_token=unk, pad_token=pad
    )
    fast.save_pretrained(folder)
    return len(vocab)
