"""A tiny T5 with RANDOM weights in the published layout: it makes some text of any text."""

from pathlib import Path

import torch

from tests.tiny_saving import save, seeded
from tests.tiny_text import sentences


def build_t5(folder: Path, *, seed: int = 0) -> Path:
    """Write a T5ForConditionalGeneration of one block and its tokenizer (tokenizer.json, as Flan-T5 has it)."""
    from transformers import T5Config, T5ForConditionalGeneration, T5Tokenizer

    special = ["<pad>", "</s>", "<unk>"]
    words = sorted({word for text in sentences() for word in text.split()})
    pieces = [*special, "▁", *map(chr, range(33, 127)), *(f"▁{word}" for word in words)]
    scores = [(piece, 0.0 if piece in special else -float(4 - min(len(piece), 3))) for piece in dict.fromkeys(pieces)]
    T5Tokenizer(vocab=scores, extra_ids=0).save_pretrained(folder)
    config = T5Config(
        vocab_size=len(scores),
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=2,
        decoder_start_token_id=0,
    )
    with seeded(seed):
        model = T5ForConditionalGeneration(config)
    return save(model, folder, torch.float32)
