"""The prompt format of the tiny language model, and how prompt and answer become ids and labels.

The folder of the language model says the same format as a plain template (`prompt_template.txt`), so that others can
fill it without this package.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmig.language.token_loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TEMPLATE = "Image: {image}\nInstruction: {instruction}\nResponse:"
NO_IMAGE = "N/A"
"""Stands for the image where nothing is known about it, as in LaVIN's text-only prompt."""


def format_prompt(instruction: str, source_caption: str = "") -> str:
    """The text in front of the response: what is known of the source image, the instruction, and a cue.

    The response follows as ids of its own (tokenised apart, so that no merge crosses the seam), then end of sequence.
    """
    return PROMPT_TEMPLATE.format(image=source_caption or NO_IMAGE, instruction=instruction)


def encode(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids of start + prompt, and ids of answer + end of sequence."""
    prompt_ids = tokenizer(prompt, add_special_tokens=False).input_ids
    answer_ids = tokenizer(answer, add_special_tokens=False).input_ids
    return [tokenizer.bos_token_id, *prompt_ids], [*answer_ids, tokenizer.eos_token_id]


def padded_rows(pairs: Sequence[tuple[list[int], list[int]]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """(input_ids, attention_mask, labels), each int64 [B,L], padded on the right; labels only on the second parts."""
    length = max(len(first) + len(second) for first, second in pairs)
    ids = torch.full((len(pairs), length), pad)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORED)
    for row, (first, second) in enumerate(pairs):
        end = len(first) + len(second)
        ids[row, :end] = torch.tensor([*first, *second])
        mask[row, :end] = 1
        labels[row, len(first) : end] = torch.tensor(second)
    return ids, mask, labels
