"""Tokenizers of the tiny backbones, trained on the texts of a folder of shards and written in the published layouts.

CLIP's is end-of-word BPE, LLaMA's metaspace BPE with byte fallback, OPT's byte-level BPE with an image placeholder.
Which texts a shard holds and which entries a vocabulary has is decided here; the files are in `tokenizer_layouts`.
"""

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from datamodules.schema import TEXT_FIELDS
from experiments.tiny_backbones.prompt import format_prompt
from experiments.tiny_backbones.tokenizer_layouts import (
    BOS,
    EOS,
    IMAGE_TOKEN,
    OPT_SPECIALS,
    Merges,
    save_clip_tokenizer,
    save_llama_tokenizer,
    save_opt_tokenizer,
)
from mmig.base.commands import OptionParser

Trained = tuple[dict[str, int], Merges]
"""Ids by entry, and merges in their order."""

MAX_VOCABULARY = 2000
"""Entries a tiny tokenizer may have; the published 49,408-row table alone would eat the budget of assets/tiny."""

CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What CLIP's tokenizer takes for a word (open_clip's and transformers' agree)."""


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


def _trained_merges(tokenizer: Tokenizer, trainer: trainers.BpeTrainer, texts: Iterable[str]) -> Merges:
    tokenizer.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(tokenizer.to_str())["model"]["merges"]]


def _numbered(entries: Iterable[str]) -> dict[str, int]:
    return {entry: index for index, entry in enumerate(dict.fromkeys(entries))}


def train_clip_tokenizer(texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY) -> Trained:
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


def train_llama_tokenizer(texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY) -> Trained:
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


def train_opt_tokenizer(texts: Iterable[str], max_vocabulary: int = MAX_VOCABULARY) -> Trained:
    """Vocabulary and merges of an OPT-like tokenizer: four specials, bytes, merges, the image placeholder last."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=max_vocabulary - 261, min_frequency=2, show_progress=False)
    merges = _trained_merges(tokenizer, trainer, texts)
    joined = ["".join(pair) for pair in merges]
    return _numbered([*OPT_SPECIALS, *_byte_characters(), *joined, IMAGE_TOKEN]), merges


def write_tokenizers(shards: Path, out: Path, max_vocabulary: int = MAX_VOCABULARY) -> dict[str, int]:
    """Train all three on the texts of `shards` and write them below `out`.

    Returns the number of entries by folder: clip and stable-diffusion/tokenizer (the same files), llama, blip2.
    """
    texts = sorted(set(shard_texts(shards)))
    parts: list[tuple[str, Trained, Callable[[Path, dict[str, int], Merges], None]]] = []
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
    """Command line: `python -m experiments.tiny_backbones.tokenizers --shards DIR --out assets/tiny`."""
    parser = OptionParser(description=main.__doc__)
    parser.add_argument("--shards", type=Path, required=True, help="folder of shards whose texts are read")
    parser.add_argument(
        "--out", type=Path, required=True, help="root that gets clip/, stable-diffusion/, llama/, blip2/"
    )
    arguments = parser.parse_args()
    for name, entries in write_tokenizers(arguments.shards, arguments.out).items():
        print(f"{arguments.out / name}: {entries} entries")  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
