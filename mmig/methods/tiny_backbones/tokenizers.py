"""Tokenizers of the tiny backbones, trained on the texts of a folder of shards and written in the published layouts.

Three layouts live here: CLIP's (end-of-word BPE), LLaMA's (metaspace BPE with byte fallback) and OPT's (byte-level
BPE with an image placeholder). Which texts a shard holds is decided here; how the models use the ids is not.
"""

import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from datamodules.schema import TEXT_FIELDS
from mmig.methods.tiny_backbones.prompt import format_prompt

MAX_VOCABULARY = 2000
"""Entries a tiny tokenizer may have; the published 49,408-row table alone would eat the budget of assets/tiny."""

CLIP_CONTEXT = 77
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP's tokenizer takes for a word (open_clip's and transformers' agree)."""
BOS, EOS = "<|startoftext|>", "<|endoftext|>"
OPT_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
IMAGE_TOKEN = "<image>"

Json = dict[str, Any]


def shard_texts(directory: Path) -> Iterator[str]:
    """Every text of every sample below a folder of tar shards, in the order of file names and members.

    Raises:
        FileNotFoundError: if the folder holds no tar file.
    """
    shards = sorted(Path(directory).rglob("*.tar"))
    if not shards:
        raise FileNotFoundError(f"no shards below {directory}: expected *.tar, found none; write them first")
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    fields = json.load(tar.extractfile(member))
                    yield from (fields[name] for name in TEXT_FIELDS if fields.get(name))


def _byte_characters() -> list[str]:
    """The 256 printable stand-ins for bytes in GPT-2's order: printable bytes first, the others behind them."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + n) for n in range(len(others))]


def _trained_merges(tokenizer: Tokenizer, trainer: trainers.BpeTrainer, texts: Iterable[str]) -> list[tuple[str, str]]:
    tokenizer.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _numbered(entries: Iterable[str]) -> dict[str, int]:
    return {entry: index for index, entry in enumerate(dict.fromkeys(entries))}


def train_clip_tokenizer(texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY) -> tuple[dict[str, int], list]:
    """Vocabulary and merges in the order of CLIP's files: bytes, bytes ending a word, merges, start, end of text.

    The end-of-text token has the highest id, because open_clip pools at the largest id of a row.
    """
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=max_vocabulary - 514, min_frequency=2, end_of_word_suffix="</w>", show_progress=False
    )
    merges = _trained_merges(tokenizer, trainer, texts)
    letters = _byte_characters()
    endings = [letter + "</w>" for letter in letters]
    joined = ["".join(pair) for pair in merges]
    return _numbered([*letters, *endings, *joined, BOS, EOS]), merges


def train_llama_tokenizer(texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY) -> tuple[dict[str, int], list]:
    """Vocabulary and merges of a LLaMA-like tokenizer: <unk>, <s>, </s>, 256 byte tokens, letters, merges.

    Punctuation is kept apart from words while training, so that a word has one id wherever it stands; so are line
    breaks, which stay a byte token as in LLaMA.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("\n", behavior="isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="first"),
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=max_vocabulary - len(specials), min_frequency=2, show_progress=False)
    merges = _trained_merges(tokenizer, trainer, texts)
    joined = {"".join(pair) for pair in merges}
    by_id = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    letters = [entry for entry, _ in by_id if entry not in joined and entry != "\n"]
    return _numbered([*specials, *letters, *("".join(pair) for pair in merges)]), merges


def train_opt_tokenizer(texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY) -> tuple[dict[str, int], list]:
    """Vocabulary and merges of an OPT-like tokenizer: four specials, bytes, merges, the image placeholder last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=max_vocabulary - 261, min_frequency=2, show_progress=False)
    merges = _trained_merges(tokenizer, trainer, texts)
    joined = ["".join(pair) for pair in merges]
    return _numbered([*OPT_SPECIALS, *_byte_characters(), *joined, IMAGE_TOKEN]), merges


def save_clip_tokenizer(folder: Path, vocabulary: dict[str, int], merges: list) -> None:
    """Write vocab.json, merges.txt, special_tokens_map.json and tokenizer_config.json as Stable Diffusion 1.5 has."""
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS, "unk_token": EOS}
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": CLIP_CONTEXT,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    _write_files(folder, vocabulary, merges, special, config)


def save_opt_tokenizer(folder: Path, vocabulary: dict[str, int], merges: list) -> None:
    """Write the same four files as OPT has (GPT-2 BPE, `</s>` in front of every text) plus the image placeholder."""
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}
    added = {
        str(vocabulary[token]): {
            "content": token,
            "special": True,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
            "single_word": False,
        }
        for token in (*OPT_SPECIALS, IMAGE_TOKEN)
    }
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": 128,
        "add_bos_token": True,
        "add_prefix_space": False,
        "errors": "replace",
        "padding_side": "left",
        "added_tokens_decoder": added,
        **special,
    }
    _write_files(folder, vocabulary, merges, special, config)


def save_llama_tokenizer(folder: Path, vocabulary: dict[str, int], merges: list) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json (`<s>` in front of every text)."""
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer(
        vocab=vocabulary,
        merges=[tuple(pair) for pair in merges],
        add_bos_token=True,
        add_eos_token=False,
        pad_token="</s>",
        model_max_length=512,
    )
    tokenizer.save_pretrained(folder)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
    write_json(folder / "special_tokens_map.json", special)


def write_json(path: Path, content: Json) -> None:
    """Write JSON to a temporary name, then rename."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write text to a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(content, encoding="utf-8")
    os.replace(temporary, path)


def _write_files(folder: Path, vocabulary: dict[str, int], merges: list, special: Json, config: Json) -> None:
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", config)


def write_tokenizers(shards: Path, out: Path, max_vocabulary: int = MAX_VOCABULARY) -> dict[str, int]:
    """Train all three on the texts of `shards` and write them below `out`.

    Returns the number of entries by folder: clip and stable-diffusion/tokenizer (the same files), llama, blip2.
    """
    texts = sorted(set(shard_texts(shards)))
    Saver = Callable[[Path, dict[str, int], list], None]
    parts: list[tuple[str, tuple[dict[str, int], list], Saver]] = []
    clip = train_clip_tokenizer(texts, max_vocabulary)
    parts.append(("clip", clip, save_clip_tokenizer))
    parts.append(("stable-diffusion/tokenizer", clip, save_clip_tokenizer))
    prompts = [format_prompt(text) for text in texts]
    parts.append(("llama", train_llama_tokenizer([*texts, *prompts], max_vocabulary), save_llama_tokenizer))
    parts.append(("blip2", train_opt_tokenizer(texts, max_vocabulary), save_opt_tokenizer))
    for name, (vocabulary, merges), save in parts:
        save(Path(out) / name, vocabulary, merges)
    return {name: len(vocabulary) for name, (vocabulary, _), _ in parts}


def main() -> None:
    """Command line: `python -m mmig.methods.tiny_backbones.tokenizers --shards DIR --out assets/tiny`."""
    import argparse

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--shards", type=Path, required=True, help="folder of shards whose texts are read")
    parser.add_argument(
        "--out", type=Path, required=True, help="root that gets clip/, stable-diffusion/, llama/, blip2/"
    )
    arguments = parser.parse_args()
    for name, entries in write_tokenizers(arguments.shards, arguments.out).items():
        print(f"{arguments.out / name}: {entries} entries")  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
