"""The prompt formats of the tiny language model, and how prompt and answer become ids and labels.

The folder of the language model says the same formats as plain templates (`prompt_template.txt` for the response,
`expressive_template.txt` for the expressive edit), so that others can fill them without this package; a method asks for
expressive edits by taking the second as its `multimodal.prompt_template`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmig.language.token_loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TEMPLATE = "Image: {image}\nInstruction: {instruction}\nResponse:"
EXPRESSIVE_TEMPLATE = "Image: {image}\nInstruction: {instruction}\nEdit:"
TEMPLATES = {"response": PROMPT_TEMPLATE, "expressive": EXPRESSIVE_TEMPLATE}
"""How each field of a sample is asked for."""
NO_IMAGE = "N/A"
"""Stands for the image where nothing is known about it, as in LaVIN's text-only prompt."""


def format_prompt(instruction: str, source_caption: str = "", template: str = PROMPT_TEMPLATE) -> str:
    """The text in front of the answer: what is known of the source image, the instruction, and a cue.

    The answer follows as ids of its own (tokenised apart, so that no merge crosses the seam), then end of sequence.
    """
    return template.format(image=source_caption or NO_IMAGE, instruction=instruction)


def encode(tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Ids of start + prompt, and ids of answer + end of sequence."""
    return encode_all(tokenizer, [prompt], [answer])[0]


def encode_all(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str], answers: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """`encode` of each prompt with its answer, in one call of the tokenizer."""
    ids = tokenizer([*prompts, *answers], add_special_tokens=False).input_ids
    starts, ends = ids[: len(prompts)], ids[len(prompts) :]
    return [
        ([tokenizer.bos_token_id, *start], [*end, tokenizer.eos_token_id])
        for start, end in zip(starts, ends, strict=True)
    ]


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
