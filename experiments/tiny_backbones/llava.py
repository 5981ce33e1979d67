"""Training of the tiny LLaVA: from a picture and an instruction to the edit that is meant, under MGIE's prompt.

A part of the samples comes without the picture, as LGIE asks; beside them it learns facts. All parts are trained
together from scratch. What makes it see is what made the captioner and the language model learn: readers of the scene,
thrown away afterwards, ask the patches and the states of the prompt what stands at each place, before the edit and
after it. The model is in `llava_model.py`.
"""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from experiments.tiny_backbones.clip_model import normalise_images
from experiments.tiny_backbones.language import SCENES, drawn_facts, edits_told
from experiments.tiny_backbones.llava_model import LlavaSize, build_llava, llava_tokenizer
from experiments.tiny_backbones.prompt import padded_rows
from experiments.tiny_backbones.referent_reader import ReferentReader, referent_labels, referent_losses
from experiments.tiny_backbones.scene_reader import SceneReader, are_known, reading_losses, scene_labels
from mmig.language.sequences import VISUAL_TOKEN
from mmig.language.token_loss import IGNORED, token_loss
from mmig.methods.mgie.writer import PROMPT, question_ids
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

Pair = tuple[list[int], list[int]]
"""Ids of a prompt with `VISUAL_TOKEN` at the picture's places, and of its answer with end of sequence."""
ANSWERS = ("expressive", "blind", "fact")
"""What it is to write with the picture, without it, and about the world; names of these loss terms."""
DENSE = ("dense_patches", *SCENES)
"""What readers read, and the names of these loss terms."""
REFERENTS = "referents"
"""Loss term of the reader of what visual instructions may mean; it is there where the term has a weight."""


class Read(NamedTuple):
    """Rows through the language model.

    Attributes:
        losses: mean cross-entropy of each answer's tokens, [R].
        states: behind the embedding and behind each layer, [R,L,D] each.
        hidden: bool [R,L], True where no prompt stands.
    """

    losses: Tensor
    states: Sequence[Tensor]
    hidden: Tensor


class LlavaModule(TrainingModule):
    """Trains the LLaVA; loss on answers and ends of sequence only, and of readers of patches and of the prompt.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; the terms are those of `ANSWERS` and
            `DENSE`: the scene before the edit is read from the patches that the language model gets and from its states
            after a third of the layers, that after the edit from those after two thirds. `REFERENTS` is read from the
            patches.
        tokenizer: folder of the LLaMA-like tokenizer.
        size: widths.
        blind_share: how often the picture is left out.
        fact_share: how often a sample is followed by a fact of the world, which has nothing to do with it.
    """

    known_losses = terms_without_timestep = (*ANSWERS, *DENSE, REFERENTS)
    new_parts = ("referent_reader",)

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        tokenizer: str,
        size: LlavaSize | None = None,
        blind_share: float = 0.3,
        fact_share: float = 0.5,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        self.tokenizer = llava_tokenizer(tokenizer)
        self.size = size = size or LlavaSize()
        self.blind_share, self.fact_share = blind_share, fact_share
        torch.manual_seed(seed)
        self.llava = build_llava(size, self.tokenizer)
        unread = (self.llava.model.vision_tower.encoder.layers[-1], self.llava.model.vision_tower.post_layernorm)
        for part in unread:
            part.requires_grad_(False)
        widths = {"dense_patches": size.vision_width} | dict.fromkeys(SCENES, size.text_width)
        self.readers = nn.ModuleDict({name: SceneReader(width) for name, width in widths.items()})
        self.referent_reader = ReferentReader(size.vision_width) if REFERENTS in loss_weights else None
        thirds = (max(1, part * size.text_layers // 3) for part in (1, 2))
        self.read_after = dict(zip(SCENES, thirds, strict=True))

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Mean cross-entropy of each sample's answer and its fact, ends of sequence included; what readers lose.

        "expressive" counts the tokens of answers with the picture, "blind" those without it; "dense_patches" needs a
        picture whose scene graph is known, as "referents" does, the other readers a prompt with that picture.
        """
        blind = draws.bernoulli("blind", self.blind_share).to(self.device) | ~batch["has_source"]
        asked = batch["has_instruction"] & batch["has_expressive"]
        pairs = {"answer": self._questions(batch, blind.tolist()), "fact": self._facts(draws)}
        sizes = {
            name: torch.tensor([float(len(answer)) for _, answer in rows], device=self.device)
            for name, rows in pairs.items()
        }
        told = draws.bernoulli("fact", self.fact_share).to(self.device)
        scenes = {
            name: [known.get(field) for known in batch["metadata"]]
            for name, field in {"dense_patches": "source_scene", **SCENES}.items()
        }
        seen = {name: are_known(found).to(self.device) for name, found in scenes.items()}
        shown = batch["has_source"] & ~blind
        counts = {
            "expressive": sizes["answer"] * (asked & ~blind),
            "blind": sizes["answer"] * (asked & blind),
            "fact": sizes["fact"] * told,
            "dense_patches": seen["dense_patches"] & batch["has_source"],
            **{name: seen[name] & shown for name in SCENES},
        }
        counts[REFERENTS] = counts["dense_patches"]
        labels = {name: scene_labels(found).to(self.device) for name, found in scenes.items()}
        labels[REFERENTS] = referent_labels(scenes["dense_patches"]).to(self.device)

        @cache
        def values() -> dict[str, Tensor]:
            return self._values(batch["source"], pairs, shown, told, labels)

        def term(name: str) -> LossTerm:
            return LossTerm(counts[name], lambda: values()[name])

        return {name: term(name) for name in self.loss_weights}

    # Texts to ids ------------------------------------------------------------------------------------------------

    def _questions(self, batch: Batch, blind: Sequence[bool]) -> list[Pair]:
        """Prompt and answer of each sample: the edit, or of blind ones what is known of it without the picture."""
        seeing, without = (self._prompts(batch["instruction"], count) for count in (self.size.num_patches, 0))
        prompts = [bare if hides else whole for hides, whole, bare in zip(blind, seeing, without, strict=True)]
        return self._answered(prompts, edits_told(batch, blind))

    def _facts(self, draws: Draws) -> list[Pair]:
        """A fact for each sample: its beginning stands where the instruction would, its end is the answer."""
        beginnings, ends = drawn_facts(draws)
        return self._answered(self._prompts(beginnings, 0), ends)

    def _prompts(self, instructions: Sequence[str], num_visual_tokens: int) -> list[list[int]]:
        return question_ids(self.tokenizer, instructions, PROMPT, num_visual_tokens)

    def _answered(self, prompts: Sequence[list[int]], answers: Sequence[str]) -> list[Pair]:
        ids = self.tokenizer(list(answers), add_special_tokens=False).input_ids
        return [(prompt, [*row, self.tokenizer.eos_token_id]) for prompt, row in zip(prompts, ids, strict=True)]

    # Forwards ----------------------------------------------------------------------------------------------------

    def _values(
        self,
        images: Tensor,
        pairs: dict[str, list[Pair]],
        shown: Tensor,
        told: Tensor,
        labels: dict[str, Tensor],
    ) -> dict[str, Tensor]:
        """Every term of each sample, [B] each; 0 where it was not computed.

        Rows with the picture and the much shorter ones without it go through the language model apart.
        """
        patches = self._patches(images)
        values = {name: patches.new_zeros(len(images), dtype=torch.float32) for name in (*ANSWERS, *DENSE)}
        values["dense_patches"] = reading_losses(self.readers["dense_patches"](patches), labels["dense_patches"])
        if self.referent_reader is not None:
            values[REFERENTS] = referent_losses(self.referent_reader(patches), labels[REFERENTS])
        seeing, blind, facts = (mask.nonzero()[:, 0] for mask in (shown, ~shown, told))
        if len(seeing):
            visual = self.llava.model.multi_modal_projector(patches[seeing])
            read = self._read([pairs["answer"][row] for row in seeing.tolist()], visual)
            values["expressive"] = values["expressive"].index_copy(0, seeing, read.losses)
            for name, layer in self.read_after.items():
                lost = reading_losses(self.readers[name](read.states[layer], read.hidden), labels[name][seeing])
                values[name] = values[name].index_copy(0, seeing, lost)
        without = [pairs["answer"][row] for row in blind.tolist()] + [pairs["fact"][row] for row in facts.tolist()]
        if without:
            losses = self._read(without).losses
            values["blind"] = values["blind"].index_copy(0, blind, losses[: len(blind)])
            values["fact"] = values["fact"].index_copy(0, facts, losses[len(blind) :])
        return values

    def _patches(self, images: Tensor) -> Tensor:
        """The states of the patches that the projector gets, [B,P,W], of images in [-1,1]."""
        config = self.llava.config
        output = self.llava.model.vision_tower(normalise_images(images), output_hidden_states=True)
        return output.hidden_states[config.vision_feature_layer][:, 1:]

    def _read(self, rows: Sequence[Pair], visual: Tensor | None = None) -> Read:
        """Prompts with their answers, `visual` [R,P,D] at the places of their pictures."""
        ids, mask, labels = (value.to(self.device) for value in padded_rows(rows, self.tokenizer.pad_token_id))
        embedded = self.llava.get_input_embeddings()(ids.clamp(min=0))
        if visual is not None:
            embedded = embedded.masked_scatter((ids == VISUAL_TOKEN)[..., None], visual.to(embedded))
        # padding on the right of causal rows is seen by nothing that counts, so no mask is needed
        output = self.llava.model.language_model(inputs_embeds=embedded, use_cache=False, output_hidden_states=True)
        targets = labels[:, 1:]
        counted = targets != IGNORED
        logits = self.llava.lm_head(output.last_hidden_state[:, :-1][counted])
        losses = token_loss(logits[:, None], targets[counted][:, None]).sums
        sums = losses.new_zeros(len(rows)).index_add(0, counted.nonzero()[:, 0], losses)
        return Read(sums / counted.sum(1), output.hidden_states, (mask == 0) | (labels != IGNORED))
