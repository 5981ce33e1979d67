"""BLIP-2: image captioning model (image tower, Q-Former, language model) and its processor."""

from typing import TYPE_CHECKING

import torch

from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import BLIP2, BLIP2_PROCESSOR, BackboneError

if TYPE_CHECKING:
    from transformers import Blip2ForConditionalGeneration, Blip2Processor


def load_blip2(
    path: Source,
    *,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
) -> "Blip2ForConditionalGeneration":
    """The captioner: pixels [B,3,S,S] and ids [B,L], which begin with `config.num_query_tokens` image placeholders.

    Frozen with gradient checkpointing it stays in train() mode with all dropouts 0 (`loading.prepare`); call eval()
    for `generate`.

    Raises:
        BackboneError: a missing or broken file, another model in that folder, or no image placeholder in its config.
    """
    from transformers import Blip2ForConditionalGeneration

    folder = locate(path, BLIP2)
    model = load_strictly(Blip2ForConditionalGeneration, folder, dtype)
    if model.config.image_token_id is None:  # without placeholders the image is ignored without an error
        raise BackboneError(f"{folder / 'config.json'}: expected image_token_index, found none; fetch a newer version")
    return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def load_blip2_processor(path: Source) -> "Blip2Processor":
    """Image processor and tokenizer of a BLIP-2; it puts the image placeholders before the text.

    Raises:
        BackboneError: a missing or broken file, or no number of query tokens (then no placeholders would be written).
    """
    from transformers import Blip2Processor

    folder = locate(path, BLIP2_PROCESSOR)
    try:
        processor = Blip2Processor.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # json, tokenizers' Rust errors, OSError
        raise BackboneError(f"{folder}: cannot be read as a BLIP-2 processor: {error}; fetch it again") from error
    if processor.num_query_tokens is None:
        raise BackboneError(f"{folder / 'processor_config.json'}: expected num_query_tokens, found none")
    return processor
