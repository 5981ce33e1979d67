"""The files of a tokenizer in the published layouts of CLIP, LLaMA and OPT. Nothing is trained here."""

from pathlib import Path
from typing import Any

from experiments.tiny_backbones.merges import Merges
from mmig.base.files import write_json, write_text

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
"""CLIP's start and end of text."""
CLIP_CONTEXT = 77
OPT_SPECIALS = ("<s>", "<pad>", "</s>", "<unk>")
IMAGE_TOKEN = "<image>"

Json = dict[str, Any]


def save_clip_tokenizer(folder: Path, vocabulary: dict[str, int], merges: Merges) -> None:
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


def save_opt_tokenizer(folder: Path, vocabulary: dict[str, int], merges: Merges) -> None:
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


def save_llama_tokenizer(folder: Path, vocabulary: dict[str, int], merges: Merges) -> None:
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


def _write_files(folder: Path, vocabulary: dict[str, int], merges: Merges, special: Json, config: Json) -> None:
    write_json(folder / "vocab.json", vocabulary)
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    write_json(folder / "special_tokens_map.json", special)
    write_json(folder / "tokenizer_config.json", config)
