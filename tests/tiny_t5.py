"""A tiny T5 with RANDOM weights in the published layout: whole it makes some text of any text; or its encoder."""

from pathlib import Path
from typing import Any

import torch

from tests.tiny_saving import save, seeded
from tests.tiny_text import sentences


def build_t5(folder: Path, *, seed: int = 0) -> Path:
    """Write a T5ForConditionalGeneration of one block and its tokenizer (tokenizer.json, as Flan-T5 has it)."""
    from transformers import T5ForConditionalGeneration

    with seeded(seed):
        model = T5ForConditionalGeneration(_config(_write_tokenizer(folder)))
    return save(model, folder, torch.float32)


def build_t5_encoder(folder: Path, tokenizer_folder: Path, length: int, *, seed: int = 0) -> Path:
    """Write a T5EncoderModel and, apart, its tokenizer, which reads texts of some length."""
    from transformers import T5EncoderModel

    with seeded(seed):
        model = T5EncoderModel(_config(_write_tokenizer(tokenizer_folder, model_max_length=length)))
    return save(model, folder, torch.float32)


def _write_tokenizer(folder: Path, **settings: Any) -> int:
    """Write it; the number of its tokens."""
    from transformers import T5Tokenizer

    special = ["<pad>", "</s>", "<unk>"]
    words = sorted({word for text in sentences() for word in text.split()})
    pieces = [*special, "▁", *map(chr, range(33, 127)), *(f"▁{word}" for word in words)]
    scores = [(piece, 0.0 if piece in special else -float(4 - min(len(piece), 3))) for piece in dict.fromkeys(pieces)]
    T5Tokenizer(vocab=scores, extra_ids=0, **settings).save_pretrained(folder)
    return len(scores)


def _config(vocab_size: int) -> Any:
    from transformers import T5Config

    return T5Config(
        vocab_size=vocab_size,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
