"""Training of the tiny language model: from a description of the source image and an instruction to what is asked for.

That is the response, or the expressive edit; beside them it learns facts, the beginning of each in the place of the
instruction. From answers alone it learns words and grammar, but for very long not which attributes are of one object,
so readers of the scene, thrown away afterwards, ask the states of the prompt what stands at each place before the edit
and after it. A plain `LlamaForCausalLM`; the prompt formats are in `prompt.py`, how two answers share one prompt in
`branches.py`, export and score in files of those names.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from datamodules.tinyworld.inferable import completions
from experiments.tiny_backbones.branches import Branch, branched_rows, row_length
from experiments.tiny_backbones.prompt import EXPRESSIVE_TEMPLATE, PROMPT_TEMPLATE, encode_all, format_prompt
from experiments.tiny_backbones.scene_reader import SceneReader, are_known, reading_losses, scene_labels
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
"""What it is to answer, and the names of these loss terms."""
SCENES = {"dense_source": "source_scene", "dense_target": "target_scene"}
"""What readers read from a prompt's states, by loss term, and where the metadata have it."""


class LanguageModule(TrainingModule):
    """Trains the language model; loss on answers and ends of sequence only, and of readers of the prompt's states.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; the terms are those of `TASKS` and
            `SCENES`, for the scene before the edit from the states after a third of the layers, for that after it from
            those after two thirds.
        tokenizer: folder of the LLaMA-like tokenizer.
        size: widths.
        start: folder of a language model of this tokenizer that training goes on from; its widths count, not `size`.
        caption_dropout: how often the description of the source image is left out of the prompt, because stage 1 of
            MMIG shows the language model the instruction alone.
        fact_share: how often a sample is followed by a fact of the world, which has nothing to do with it.
        rows_at_once: rows of like lengths that go through the model together, so that little of them is padding.
    """

    known_losses = terms_without_timestep = (*TASKS, *SCENES)

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
        config = self.language_model.config
        self.readers = nn.ModuleDict({name: SceneReader(config.hidden_size) for name in SCENES})
        self.read_after = [max(1, thirds * config.num_hidden_layers // 3) for thirds in (1, 2)]

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Mean cross-entropy of each sample's answers and its fact, ends of sequence included; what readers lose.

        Scenes count where the graph is known and the prompt describes the source.
        """
        hidden = draws.bernoulli("caption", self.caption_dropout).to(self.device)
        pairs = self._prompts_and_answers(batch, draws, hidden)
        told = batch["has_instruction"] & batch["has_source_caption"] & ~hidden
        scenes = {name: _scenes(batch, field, told) for name, field in SCENES.items()}
        present = {
            "response": batch["has_instruction"] & batch["has_response"],
            "expressive": batch["has_instruction"] & batch["has_expressive"],
            "fact": draws.bernoulli("fact", self.fact_share),
        }
        with_fact = present["fact"].nonzero()[:, 0]
        rows: list[Sequence[Branch]] = [*zip(pairs["response"], pairs["expressive"], strict=True)]
        rows += [(pairs["fact"][number],) for number in with_fact.tolist()]
        labels = torch.stack([scene_labels(known + [None] * len(with_fact)) for known in scenes.values()], dim=1)

        @cache
        def values() -> dict[str, Tensor]:
            found, size = self._row_losses(rows, labels.to(self.device)), len(batch["key"])
            facts = found.new_zeros(size).index_copy(0, with_fact.to(found.device), found[size:, 0])
            columns = dict(zip(("response", "expressive", *SCENES), found[:size].unbind(1), strict=True))
            return {**columns, "fact": facts}

        def term(name: str) -> LossTerm:
            if name in SCENES:
                counts = are_known(scenes[name])
            else:
                counts = torch.tensor([float(len(answer)) for _, answer in pairs[name]]) * present[name].cpu()
            return LossTerm(counts.to(self.device), lambda: values()[name])

        return {name: term(name) for name in self.loss_weights}

    def _prompts_and_answers(self, batch: Batch, draws: Draws, hidden: Tensor) -> dict[str, list[Branch]]:
        """Ids of each sample's prompt and answer, by task; `hidden` are source captions to leave out, bool [B]."""
        hide = hidden.tolist()
        captions = ["" if hides else text for hides, text in zip(hide, batch["source_caption"], strict=True)]
        edits, (beginnings, ends) = edits_told(batch, hide), drawn_facts(draws)
        return {
            "response": self._encoded(PROMPT_TEMPLATE, batch["instruction"], captions, batch["response"]),
            "expressive": self._encoded(EXPRESSIVE_TEMPLATE, batch["instruction"], captions, edits),
            "fact": self._encoded(PROMPT_TEMPLATE, beginnings, [""] * len(ends), ends),
        }

    def _encoded(
        self, template: str, orders: Sequence[str], captions: Sequence[str], answers: Sequence[str]
    ) -> list[Branch]:
        prompts = [format_prompt(order, caption, template) for order, caption in zip(orders, captions, strict=True)]
        return encode_all(self.tokenizer, prompts, answers)

    def _row_losses(self, rows: Sequence[Sequence[Branch]], labels: Tensor) -> Tensor:
        """Mean cross-entropy of each row's two answers, and what the readers of `SCENES` lose, [rows,4].

        0 for a branch that a row does not have; `labels` [rows,2,9,3] are those of the scenes.
        """
        by_length = sorted(range(len(rows)), key=lambda number: row_length(rows[number]))
        parts = [by_length[start : start + self.rows_at_once] for start in range(0, len(rows), self.rows_at_once)]
        found = [self._losses_at_once([rows[number] for number in part], labels[part]) for part in parts]
        return torch.cat(found)[torch.tensor(by_length).argsort().to(found[0].device)]

    def _losses_at_once(self, rows: Sequence[Sequence[Branch]], labels: Tensor) -> Tensor:
        inputs = branched_rows(rows, self.tokenizer.pad_token_id)
        ids, positions, mask, branches, targets = (value.to(self.device) for value in inputs)
        model = self.language_model
        output = model.model(
            input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=False, output_hidden_states=True
        )
        counted = targets != IGNORED
        logits = model.lm_head(output.last_hidden_state[counted])
        losses = token_loss(logits[:, None], targets[counted][:, None]).sums
        places = counted.nonzero()[:, 0] * 2 + branches[counted] - 1
        sums, counts = (losses.new_zeros(len(rows) * 2) for _ in range(2))
        sums, counts = sums.index_add(0, places, losses), counts.index_add(0, places, torch.ones_like(losses))
        answers = branches != 0
        readings = [
            reading_losses(reader(output.hidden_states[layer], hidden=answers), scenes)
            for reader, layer, scenes in zip(self.readers.values(), self.read_after, labels.unbind(1), strict=True)
        ]
        return torch.cat([(sums / counts.clamp(min=1)).view(-1, 2), torch.stack(readings, dim=1)], dim=1)


def edits_told(batch: Batch, hidden: Sequence[bool]) -> list[str]:
    """The expressive edit of each sample, or where its picture is `hidden` what is known of it without."""
    return [
        (data.get("expressive_blind") if hides else None) or text  # unseen, nobody can say which is the odd one
        for hides, data, text in zip(hidden, batch["metadata"], batch["expressive"], strict=True)
    ]


def drawn_facts(draws: Draws) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Beginnings and ends of facts of the world, one drawn for each sample."""
    known = completions()
    beginnings, ends = zip(
        *(known[number] for number in draws.integers("which fact", len(known)).tolist()), strict=True
    )
    return beginnings, ends


def _scenes(batch: Batch, field: str, told: Tensor) -> list[Any]:
    """The scene graphs of a field of the metadata, None where there is none or nothing is `told` of it."""
    return [known.get(field) if tells else None for tells, known in zip(told.tolist(), batch["metadata"], strict=True)]
