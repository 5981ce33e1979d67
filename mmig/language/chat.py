"""A multimodal LLM of transformers that answers: any that talks, through its processor's chat template."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from mmig.backbones.files import check_kind
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import BLIP2_PROCESSOR, BackboneError, Part
from mmig.language.greedy import plain_generation

CHAT_MODEL = Part("mllm", "")
CHAT_PROCESSOR = Part("mllm_processor", "", BLIP2_PROCESSOR.files, has_weights=False)
Content = Sequence[str | Image.Image]
"""What a user says in one turn: texts and RGB pictures, in this order."""


@dataclass(frozen=True)
class Sampling:
    """How an answer is drawn, where it is not the most likely one.

    Attributes:
        temperature: above 0.
        top_p: share of the probability that tokens are drawn from, in (0,1].
        top_k: most tokens that are drawn from.
    """

    temperature: float
    top_p: float = 1.0
    top_k: int = 50


class Chat:
    """Answers one turn, whatever the checkpoint's own habits are; greedily, unless a sampling is given.

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
    def answer(self, contents: Sequence[Content], sampling: Sampling | None = None) -> list[str | None]:
        """An answer to each content, as written: special tokens are kept, the end is not.

        None where the content fills the model's context. Rows that do not fit together are answered one by one. Drawn
        answers come from torch's default generator.

        Args:
            contents: with one picture or more each; what would be a token of control in their texts is left out.
            sampling: None for the most likely answer.
        """
        prompts = [self.said(content) for content in contents]
        begun = self.processor.tokenizer.bos_token
        inputs = self.processor(
            text=prompts,
            images=[[part for part in content if not isinstance(part, str)] for content in contents],
            padding=True,
            return_tensors="pt",
            add_special_tokens=not (begun and prompts[0].startswith(begun)),
        )
        length = inputs["input_ids"].shape[1]
        room = self.max_tokens if self._context is None else min(self.max_tokens, self._context - length)
        if room < self.max_tokens and len(prompts) > 1:
            return [self.answer([content], sampling)[0] for content in contents]
        if room < 1:
            return [None]
        inputs = inputs.to(self.model.device, self.model.dtype)  # of numbers that are no ids, the precision too
        drawn = {"do_sample": False} if sampling is None else {"do_sample": True, **vars(sampling)}
        with plain_generation(self.model):
            ids = self.model.generate(
                **inputs,
                **drawn,
                max_new_tokens=room,
                num_beams=1,
                eos_token_id=self._ends or None,
                pad_token_id=self._pad,
            )
        return [self._text(row) for row in ids[:, length:].tolist()]

    def said(self, content: Content) -> str:
        """The conversation that begins with this turn, up to where the assistant speaks."""
        parts = [
            {"type": "text", "text": self._plain(part)} if isinstance(part, str) else {"type": "image"}
            for part in content
        ]
        return self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)

    def _plain(self, text: str) -> str:
        while found := [token for token in self._control if token in text]:  # what is left may be one again
            text = text.replace(found[0], "")
        return text

    def _text(self, ids: list[int]) -> str:
        """What was written before the end; behind it stands padding."""
        stop = next((place for place, number in enumerate(ids) if number in self._ends), len(ids))
        return self.processor.tokenizer.decode(ids[:stop], skip_special_tokens=False)


def load_chat(path: Source, dtype: str, device: torch.device) -> tuple[Any, Any]:
    """Model and processor of a multimodal LLM from a folder or hub id, for `Chat`.

    Args:
        path: with model and processor.
        dtype: name of the precision.
        device: that computes.

    Raises:
        BackboneError: a missing or broken file, a model that does not read pictures, or none that talks.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KINDS

    folder = locate(path, CHAT_MODEL)
    check_kind(folder / "config.json", "model_type", KINDS, "a model's that reads pictures and texts, such as llava")
    processor_folder = locate(path, CHAT_PROCESSOR)
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
    return prepare(model, frozen=True, gradient_checkpointing=False).to(device), processor
