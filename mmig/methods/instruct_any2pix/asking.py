"""Asks a causal language model of transformers, any that talks, through its tokenizer's chat template."""

from collections.abc import Sequence
from typing import Any

import torch

from mmig.backbones.llm import load_llm, load_llm_tokenizer
from mmig.backbones.named import Source
from mmig.backbones.parts import BackboneError
from mmig.language.greedy import plain_generation
from mmig.language.sequences import left_padded_ids


class Asker:
    """Answers questions, greedily, whatever the checkpoint's own habits are.

    Args:
        model: causal language model, frozen, on its device.
        tokenizer: with a chat template.
        max_tokens: of an answer.
    """

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self.model, self.tokenizer, self.max_tokens = model, tokenizer, max_tokens
        self._context: int | None = getattr(model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def __call__(self, questions: Sequence[str]) -> list[str | None]:
        """An answer to each question; None to one that leaves no room for it."""
        prompts = [self.prompt(question) for question in questions]
        fits = [self._context is None or len(ids) + self.max_tokens <= self._context for ids in prompts]
        asked = [ids for ids, fit in zip(prompts, fits, strict=True) if fit]
        answers = iter(self._answers(asked)) if asked else iter(())
        return [next(answers) if fit else None for fit in fits]

    def prompt(self, question: str) -> list[int]:
        """Ids of the conversation that begins with a question, up to where the assistant speaks."""
        turns = [{"role": "user", "content": question}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _answers(self, prompts: Sequence[list[int]]) -> list[str]:
        ids, attention = (value.to(self.model.device) for value in left_padded_ids(prompts))
        end = self.tokenizer.eos_token_id
        with plain_generation(self.model):
            found = self.model.generate(
                input_ids=ids,
                attention_mask=attention,
                do_sample=False,
                max_new_tokens=self.max_tokens,
                eos_token_id=end,
                pad_token_id=end,
            )[:, ids.shape[1] :]
        return self.tokenizer.batch_decode(found, skip_special_tokens=True)


def load_asker(path: Source, max_tokens: int, dtype: str, device: torch.device) -> Asker:
    """A language model from a folder or hub id.

    Raises:
        BackboneError: a missing or broken file, or a model without a chat template.
    """
    tokenizer = load_llm_tokenizer(path, begins=False)
    if tokenizer.chat_template is None:
        raise BackboneError(
            f"{path}: expected a chat template (chat_template.jinja), found none; give a model that was taught to "
            "answer, or put its template there"
        )
    return Asker(load_llm(path, dtype=dtype).to(device).eval(), tokenizer, max_tokens)
