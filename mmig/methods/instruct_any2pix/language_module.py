"""Training of the language model (Li et al. 2023, sections 3.2, 3.4.3 and 9.4): three phases that share all but what
trains and what [gen] is drawn to.
"""

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import IMAGEBIND_PARTS
from mmig.cache.frozen import FrozenFeatures
from mmig.methods.instruct_any2pix.decoder import DECODER_PARTS, load_decoder
from mmig.methods.instruct_any2pix.editor import Any2PixEditor, Any2PixSampling
from mmig.methods.instruct_any2pix.export import save_any2pix
from mmig.methods.instruct_any2pix.prior import PRIOR, load_prior
from mmig.methods.instruct_any2pix.reader import LANGUAGE_PARTS, Encoded, ReaderConfig, load_reader
from mmig.methods.instruct_any2pix.slots import CONVERTED, base_number, pieces_of
from mmig.methods.instruct_any2pix.vectors import (
    AUDIO,
    IMAGE,
    TEXT,
    attached_vectors,
    load_encoder,
    one_vector,
    slot_vectors,
)
from mmig.training.lora import LLM_TARGETS, LoRAConfig, add_lora, as_named_in
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

logger = logging.getLogger(__name__)
WEIGHTS = {"text": 1.0, "base": 1.0, "gen": 1.0}
"""Of eq 1."""


class LanguageModule(TrainingModule):
    """What the phases share; loss terms `text`, `base` and `gen` (eq 1), distances of unit vectors squared.

    A sample is an instruction with attachments, its picture to edit among them or as its source, and the caption of the
    result. It counts in no term where the instruction or that caption is missing or they are longer than
    `language.max_length`; in `base` only with a picture to edit that the language model reads. `logged` has the shares.

    Args:
        optimizer, seed, micro_batch_size: see `TrainingModule`.
        llm: folder or hub id of a causal language model.
        imagebind: folder or hub id of the encoder.
        prior: folder or run of a refinement prior: it makes the targets of the first two phases, the vectors of words
            in brackets, and refines what is drawn.
        decoder: folder or run of a decoder, which editing alone needs; None trains without loading one.
        language: sizes and readings of the language model.
        lora: low-rank updates in place of whole weights, where all of the language model trains.
        aesthetic_score: f that the prior is asked for when it makes targets; None: none.
        converted: chance that words in brackets become a vector, a picture's or a sound's.
        loss_weights: of the terms; None: 1 each, as in eq 1.
        sampling: how `make_pipeline` edits.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: settings that do not fit.

    Attributes:
        trains_all: whether the language model's blocks train, or only tables and projectors.
        regenerated: whether [gen] is drawn to the vector of the edited picture, or to the prior's of its caption.
    """

    trains_all: ClassVar[bool] = False
    regenerated: ClassVar[bool] = False
    needed_fields = ("instruction", "target_caption")
    known_losses = ("text", "base", "gen")
    terms_without_timestep = known_losses
    backbone_settings: ClassVar[BackboneSettings] = {
        "llm": LANGUAGE_PARTS,
        "imagebind": IMAGEBIND_PARTS,
        "prior": {"prior": PRIOR},
        "decoder": DECODER_PARTS,
    }

    def __init__(
        self,
        optimizer: OptimizerConfig,
        llm: str | Backbone,
        imagebind: str | Backbone,
        prior: str | Backbone,
        decoder: str | Backbone | None = None,
        language: ReaderConfig | None = None,
        lora: LoRAConfig | None = None,
        aesthetic_score: float | None = 6.5,
        converted: float = 0.8,
        loss_weights: dict[str, float] | None = None,
        sampling: Any2PixSampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, dict(WEIGHTS if loss_weights is None else loss_weights), seed, micro_batch_size)
        if not 0 <= converted <= 1:
            raise ValueError(f"converted: expected a chance in [0, 1], found {converted}")
        self.name_backbones(llm=llm, imagebind=imagebind, prior=prior, decoder=decoder)
        found = self.origins
        self.encoder = load_encoder(found["imagebind"], found["imagebind_tokenizer"])
        self.prior = load_prior(found["prior"])
        self.reader = load_reader(found["llm"], found["llm_tokenizer"], self.encoder.width, language or ReaderConfig())
        self._choose_trained(lora)
        parts = {name: origin for name, origin in found.items() if name in DECODER_PARTS}
        self.decoder = load_decoder(parts, self.encoder.width) if parts else None
        if self.decoder is not None:  # its modules as parts of this one, so that they move and are named with it
            self.vae, self.unet, self.projector = self.decoder.vae, self.decoder.unet, self.decoder.projector
        self.aesthetic_score, self.converted, self.sampling = aesthetic_score, converted, sampling
        self.features = FrozenFeatures(self.fingerprints)
        wanted = self.encoder.of_image("target") if self.regenerated else self.encoder.of_text("target_caption")
        self.features.declare(self.encoder.of_image("source"), self.encoder.of_attachments(), wanted)
        self._lost: dict[str, Tensor] = {}
        self._warned = False

    def _choose_trained(self, lora: LoRAConfig | None) -> None:
        if lora is not None and lora.rank:
            if not self.trains_all:
                raise ValueError(f"lora: {type(self).__name__} trains no blocks of the language model; leave it out")
            tables = [parameter for parameter in self.reader.llm.parameters() if parameter.requires_grad]
            add_lora(self.reader.llm, lora, LLM_TARGETS, "lora")  # freezes everything else
            for table in tables:
                table.requires_grad_(True)
        elif self.trains_all:
            self.reader.llm.requires_grad_(True)
        if "text" not in self.loss_weights and not self.reader.tokens.tied:
            self.reader.tokens.output_parameter().requires_grad_(False)  # nothing would reach it, DDP would wait

    # Losses ------------------------------------------------------------------------------------------------------

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """L_ce, ||H_base - F_enc(X_base)||^2 and ||H_gen - F_enc(Y)||^2, all of one forward."""
        rows = [self._pieces(batch, row, draws) for row in range(len(batch["key"]))]
        encoded = self.reader.encode(rows, batch["target_caption"])
        usable = self._usable(batch, encoded)
        bases = [base_number(batch, row) for row in range(len(rows))]
        places = [
            next((place for place, slot in enumerate(slots) if slot.number == base), -1)
            for slots, base in zip(encoded.slots, bases, strict=True)
        ]
        place = torch.tensor(places, device=self.device)
        aimed = batch["has_target"].to(self.device) if self.regenerated else torch.ones_like(usable)
        tokens = torch.tensor([float(len(answer) + 1) for answer in encoded.answers], device=self.device)
        vectors = functools.cache(lambda: self._slot_vectors(batch, encoded, draws))
        read = functools.cache(lambda: self.reader(encoded, vectors()))

        def base_error() -> Tensor:
            wanted = vectors()[torch.arange(len(place), device=self.device), place.clamp(min=0)]
            return (read().base - wanted).square().sum(dim=1)

        terms = {  # (1)
            "text": LossTerm(tokens * usable, lambda: read().text.values),
            "base": LossTerm(usable & (place >= 0), base_error),
            "gen": LossTerm(usable & aimed, lambda: (read().gen - self._wanted(batch)).square().sum(dim=1)),
        }
        return {name: terms[name] for name in self.loss_weights}

    def _pieces(self, batch: Batch, row: int, draws: Draws) -> Any:
        """The instruction of a sample, of whose brackets some are vectors."""
        return pieces_of(batch, row, lambda number: bool(draws.uniform(f"bracket {number}")[row] < self.converted))

    def _usable(self, batch: Batch, encoded: Encoded) -> Tensor:
        """Samples that count, bool [B]; notes the others."""
        present = batch["has_instruction"] & batch["has_target_caption"]
        whole = encoded.whole.to(present.device)
        self._lost = {"text_missing": (~present).float().mean(), "text_cut": (present & ~whole).float().mean()}
        if not self._warned and (lost := (present & ~whole).nonzero().flatten().tolist()):
            self._warned = True
            logger.warning(
                "sample %r: prompt and answer are longer than language.max_length (%d): it counts nothing; further "
                "ones are in train/text_cut",
                batch["key"][lost[0]],
                self.reader.config.max_length,
            )
        return (present & whole).to(self.device)

    def logged(self) -> dict[str, Tensor]:
        """Shares of the samples that counted nothing: `text_missing` for want of a field, `text_cut` for length."""
        return self._lost

    @torch.no_grad()
    def _slot_vectors(self, batch: Batch, encoded: Encoded, draws: Draws) -> Tensor:
        """Vectors of the slots, [B,S,D]; those of words by the prior, as a picture's or a sound's (section 3.4.3)."""
        source = one_vector(self.features, "vectors.source", batch, self.device)
        attached = attached_vectors(self.features, batch, self.device)
        numbers = [[slot.number for slot in slots] for slots in encoded.slots]
        found = slot_vectors(numbers, source, attached)
        places = [(row, n) for row, own in enumerate(numbers) for n, one in enumerate(own) if one == CONVERTED]
        if places:
            texts = self.encoder.texts([encoded.slots[row][n].words for row, n in places])
            kinds = [(IMAGE, AUDIO)[int(draws.integers(f"kind {n}", 2)[row])] for row, n in places]
            target = torch.tensor(kinds, device=self.device)
            made = self.prior.refine(texts, torch.full_like(target, TEXT), target, self.aesthetic_score)
            for (row, n), vector in zip(places, made, strict=True):
                found[row, n] = vector
        return found

    @torch.no_grad()
    def _wanted(self, batch: Batch) -> Tensor:
        """What [gen] is drawn to, [B,D]."""
        if self.regenerated:
            return one_vector(self.features, "vectors.target", batch, self.device)
        texts = one_vector(self.features, "vectors.target_caption", batch, self.device)
        source = torch.full((len(texts),), TEXT, device=self.device)
        return self.prior.refine(texts, source, torch.full_like(source, IMAGE), self.aesthetic_score)

    @property
    def images_with_features(self) -> frozenset[str]:
        """Both."""
        return frozenset({"source", "target"})

    # What others see ---------------------------------------------------------------------------------------------

    def own_names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights of a phase without low-rank updates, or with others, under the names that they have here."""
        return as_named_in(self.state_dict(), weights)

    def named_backbones(self) -> dict[str, nn.Module]:
        """The frozen parts; of the language model a run stores what trains."""
        found: dict[str, nn.Module] = {"llm": self.reader.llm, "imagebind": self.encoder, "prior": self.prior}
        if self.decoder is not None:
            found |= {"vae": self.vae, "unet": self.unet, "projector": self.projector}
        return found

    def make_pipeline(self) -> Any2PixEditor:
        """Edits one of the attached pictures.

        Raises:
            ValueError: there is no decoder.
        """
        if self.decoder is None:
            raise ValueError(
                "model.init_args.decoder: expected a decoder to draw with, found none; name one, or open the run with "
                "one (configs/editors/instruct_any2pix.yaml)"
            )
        return Any2PixEditor(self.encoder, self.reader, self.prior, self.decoder, self.sampling)

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """All parts, low-rank updates merged; without a decoder a folder for `open_editor` to be given one."""
        return save_any2pix(self.encoder, self.reader, self.prior, self.decoder, self.sampling, folder)


class LLM1Module(LanguageModule):
    """The first phase: projectors, tokens' embeddings and output layer; the blocks rest."""

    new_parts: ClassVar[tuple[str, ...]] = ("reader",)


class LLM2Module(LanguageModule):
    """The second phase: all of the language model, or low-rank updates of its blocks beside what the first trains."""

    trains_all = True


class LLM3Module(LanguageModule):
    """The last phase: all, on pictures that were edited for it: [gen] is drawn to the vector of the target."""

    trains_all = True
    regenerated = True
