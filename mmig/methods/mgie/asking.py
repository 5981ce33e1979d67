"""Asks a multimodal LLM of transformers about pictures: any that talks, through its processor's chat template."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mmig.backbones.files import check_kind
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import BLIP2_PROCESSOR, BackboneError, Part
from mmig.language.greedy import plain_generation

ASKED = Part("mllm", "")
ASKED_PROCESSOR = Part("mllm_processor", "", BLIP2_PROCESSOR.files, has_weights=False)


class Asker:
    """Asks about pictures and takes the most likely answer, greedily, whatever the checkpoint's own habits are.

    Args:
        model: `AutoModelForImageTextToText`, frozen, on its device.
        processor: its processor, with a chat template.
        max_tokens: of an answer.
    """

    def __init__(self, model: Any, processor: Any, max_tokens: int) -> None:
        self.model, self.processor, self.max_tokens = model, processor, max_tokens
        tokenizer = processor.tokenizer
        ends = model.generation_config.eos_token_id
        ends = tokenizer.eos_token_id if ends is None else ends
        self._ends: list[int] = [ends] if isinstance(ends, int) else list(ends or ())
        self._pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self._context: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        image_token = getattr(processor, "image_token", None)
        self._control = [*tokenizer.all_special_tokens, *([image_token] if isinstance(image_token, str) else [])]

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image], questions: Sequence[str]) -> list[str | None]:
        """An answer to each question about its picture, as written: special tokens are kept, the end is not.

        None where the question fills the model's context. Rows that do not fit together are asked one by one.

        Args:
            pictures: RGB, any sizes.
            questions: one a picture; what would be a token of control in them is left out.
        """
        prompts = [self.prompt(question) for question in questions]
        begun = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=prompts,
            images=[[picture] for picture in pictures],
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (begun and prompts[0].startswith(begun)),
        )
        length = inputs["input_ids"].shape[1]
        room = self.max_tokens if self._context is None else min(self.max_tokens, self._context - length)
        if room < self.max_tokens and len(prompts) > 1:
            return [self([picture], [text])[0] for picture, text in zip(pictures, questions, strict=True)]
        if room < 1:
            return [None]
        inputs = inputs.to(self.model.device, self.model.dtype)  # of numbers that are no ids, the precision too
        with plain_generation(self.model):
            ids = self.model.generate(
                **inputs,
                max_new_tokens=room,
                do_sample=False,
                num_beams=1,
                eos_token_id=self._ends or None,
                pad_token_id=self._pad,
            )
        return [self._text(row) for row in ids[:, length:].tolist()]

    def prompt(self, question: str) -> str:
        """The conversation that begins with a question about a picture, up to where the assistant speaks."""
        while found := [token for token in self._control if token in question]:  # what is left may be one again
            question = question.replace(found[0], "")
        content = [{"type": "text", "text": question}, {"type": "image"}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    def _text(self, ids: list[int]) -> str:
        """What was written before the end; behind it stands padding."""
        stop = next((place for place, number in enumerate(ids) if number in self._ends), len(ids))
        return self.processor.tokenizer.decode(ids[:stop], skip_special_tokens=False)


def load_asker(path: Source, max_tokens: int, dtype: str, device: torch.device) -> Asker:
    """A multimodal LLM from a folder or hub id.

    Args:
        path: with model and processor.
        max_tokens: of an answer.
        dtype: name of the precision.
        device: that computes.

    Raises:
        BackboneError: a missing or broken file, a model that does not read pictures, or none that talks.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KINDS

    folder = locate(path, ASKED)
    check_kind(folder / "config.json", "model_type", KINDS, "a model's that reads pictures and texts, such as llava")
    processor_folder = locate(path, ASKED_PROCESSOR)
    try:
        processor = AutoProcessor.from_pretrained(processor_folder, local_files_only=True)
    except Exception as error:  # json, tokenizers' Rust errors, OSError
        raise BackboneError(f"{processor_folder}: cannot be read as a processor: {error}; fetch it again") from error
    if getattr(processor, "chat_template", None) is None:
        raise BackboneError(
            f"{processor_folder}: expected a chat template (chat_template.jinja), found none; give a model that was "
            "taught to answer, or put its template there"
        )
    processor.tokenizer.padding_side = "left"  # answers begin at the same place in every row
    model = load_strictly(AutoModelForImageTextToText, folder, dtype)
    return Asker(prepare(model, frozen=True, gradient_checkpointing=False).to(device), processor, max_tokens)
