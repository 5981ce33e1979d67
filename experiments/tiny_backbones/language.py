"""Training of the tiny language model: from a description of the source image and an instruction to what is asked for.

That is the response, or the expressive edit; beside them it learns facts, the beginning of each in the place of the
instruction. A plain `LlamaForCausalLM`; the prompt formats are in `prompt.py`, how two answers share one prompt in
`branches.py`, export and score in files of those names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.schema import Batch
from datamodules.tinyworld.inferable import completions
from experiments.tiny_backbones.branches import Branch, branched_rows, row_length
from experiments.tiny_backbones.prompt import EXPRESSIVE_TEMPLATE, PROMPT_TEMPLATE, encode_all, format_prompt
from mmig.language.token_loss import IGNORED, token_loss
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, LlamaTokenizer


@dataclass
class LanguageSize:
    """Widths of the language model (names as in `LlamaConfig`)."""

    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    max_position_embeddings: int = 512


def build_language_model(size: LanguageSize, tokenizer: "LlamaTokenizer") -> "LlamaForCausalLM":
    """A randomly initialised LLaMA of this size for this vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_hidden_layers,
        num_attention_heads=size.num_attention_heads,
        max_position_embeddings=size.max_position_embeddings,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return LlamaForCausalLM(config)


TASKS = ("response", "expressive", "fact")
"""What is learned, and the names of the loss terms."""


class LanguageModule(TrainingModule):
    """Trains the language model; loss on answers and ends of sequence only.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; the terms are those of `TASKS`.
        tokenizer: folder of the LLaMA-like tokenizer.
        size: widths.
        start: folder of a language model of this tokenizer that training goes on from; its widths count, not `size`.
        caption_dropout: how often the description of the source image is left out of the prompt, because stage 1 of
            MMIG shows the language model the instruction alone.
        fact_share: how often a sample is followed by a fact of the world, which has nothing to do with it.
        rows_at_once: rows of like lengths that go through the model together, so that little of them is padding.
    """

    terms_without_timestep = TASKS

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        tokenizer: str,
        size: LanguageSize | None = None,
        start: str | None = None,
        caption_dropout: float = 0.25,
        fact_share: float = 0.25,
        rows_at_once: int = 16,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        from transformers import LlamaTokenizer

        self.tokenizer: LlamaTokenizer = LlamaTokenizer.from_pretrained(tokenizer)
        self.caption_dropout, self.fact_share, self.rows_at_once = caption_dropout, fact_share, rows_at_once
        torch.manual_seed(seed)
        self.language_model = build_language_model(size or LanguageSize(), self.tokenizer)
        if start is not None:
            self.language_model = type(self.language_model).from_pretrained(start, dtype=torch.float32)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Mean cross-entropy of each sample's answers and its fact, ends of sequence included."""
        pairs = self._prompts_and_answers(batch, draws)
        present = {
            "response": batch["has_instruction"] & batch["has_response"],
            "expressive": batch["has_instruction"] & batch["has_expressive"],
            "fact": draws.bernoulli("fact", self.fact_share),
        }
        with_fact = present["fact"].nonzero()[:, 0]
        rows: list[Sequence[Branch]] = [*zip(pairs["response"], pairs["expressive"], strict=True)]
        rows += [(pairs["fact"][number],) for number in with_fact.tolist()]

        @cache
        def values() -> dict[str, Tensor]:
            found, size = self._answer_losses(rows), len(batch["key"])
            facts = found.new_zeros(size).index_copy(0, with_fact.to(found.device), found[size:, 0])
            return {"response": found[:size, 0], "expressive": found[:size, 1], "fact": facts}

        def term(task: str) -> LossTerm:
            lengths = torch.tensor([float(len(answer)) for _, answer in pairs[task]])
            return LossTerm((lengths * present[task]).to(self.device), lambda: values()[task])

        return {task: term(task) for task in TASKS}

    def _prompts_and_answers(self, batch: Batch, draws: Draws) -> dict[str, list[Branch]]:
        """Ids of each sample's prompt and answer, by task."""
        hidden = draws.bernoulli("caption", self.caption_dropout).tolist()
        captions = ["" if hide else text for hide, text in zip(hidden, batch["source_caption"], strict=True)]
        edits = [
            (data.get("expressive_blind") if hide else None) or text  # who sees nothing cannot say which is the odd one
            for hide, data, text in zip(hidden, batch["metadata"], batch["expressive"], strict=True)
        ]
        known = completions()
        facts = [known[number] for number in draws.integers("which fact", len(known)).tolist()]
        beginnings, ends = zip(*facts, strict=True)
        return {
            "response": self._encoded(PROMPT_TEMPLATE, batch["instruction"], captions, batch["response"]),
            "expressive": self._encoded(EXPRESSIVE_TEMPLATE, batch["instruction"], captions, edits),
            "fact": self._encoded(PROMPT_TEMPLATE, beginnings, [""] * len(facts), ends),
        }

    def _encoded(
        self, template: str, orders: Sequence[str], captions: Sequence[str], answers: Sequence[str]
    ) -> list[Branch]:
        prompts = [format_prompt(order, caption, template) for order, caption in zip(orders, captions, strict=True)]
        return encode_all(self.tokenizer, prompts, answers)

    def _answer_losses(self, rows: Sequence[Sequence[Branch]]) -> Tensor:
        """Mean cross-entropy of each row's answers, [rows,2]; 0 for a branch that a row does not have."""
        by_length = sorted(range(len(rows)), key=lambda number: row_length(rows[number]))
        starts = range(0, len(rows), self.rows_at_once)
        found = [self._losses_at_once([rows[n] for n in by_length[i : i + self.rows_at_once]]) for i in starts]
        return torch.cat(found)[torch.tensor(by_length).argsort().to(found[0].device)]

    def _losses_at_once(self, rows: Sequence[Sequence[Branch]]) -> Tensor:
        inputs = branched_rows(rows, self.tokenizer.pad_token_id)
        ids, positions, mask, branches, targets = (value.to(self.device) for value in inputs)
        model = self.language_model
        states = model.model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False)[0]
        counted = targets != IGNORED
        losses = token_loss(model.lm_head(states[counted])[:, None], targets[counted][:, None]).sums
        places = counted.nonzero()[:, 0] * 2 + branches[counted] - 1
        sums, counts = (losses.new_zeros(len(rows) * 2) for _ in range(2))
        sums, counts = sums.index_add(0, places, losses), counts.index_add(0, places, torch.ones_like(losses))
        return (sums / counts.clamp(min=1)).view(-1, 2)
