"""Inference of InstructAny2Pix: Algorithm 1 of Li et al. 2023, with every scalar a setting."""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.base.texts import CutText
from mmig.base.values import check_values
from mmig.diffusion.latents import latent_shape
from mmig.diffusion.sampling import Generators, draw_noise, per_sample
from mmig.editor import EditOutput, ResponseSource, check_fields
from mmig.methods.instruct_any2pix.algorithm import mix_conditions, mix_noise, retrieve
from mmig.methods.instruct_any2pix.decoder import Decoder
from mmig.methods.instruct_any2pix.inverting import Inverter
from mmig.methods.instruct_any2pix.prior import RefinementPrior
from mmig.methods.instruct_any2pix.reader import InstructionReader
from mmig.methods.instruct_any2pix.slots import SOURCE, pieces_of, slots_in
from mmig.methods.instruct_any2pix.vectors import IMAGE, VectorEncoder, slot_vectors

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Any2PixSampling:
    """How to edit. The paper gives no numbers; where the released code has some, they are the defaults.

    Attributes:
        num_steps: of inversion, and of drawing.
        guidance_scale: of the denoiser when it draws; inversion has none.
        alpha: how much of the inverted picture the first noise keeps, and so of its layout.
        beta: how much of the source's own vector the condition keeps, and so of its meaning.
        prior_weight: of the refined vector in the condition; 1 in the paper, 0 leaves the prior out.
        gen_weight: of the language model's own vector in the condition; 1 in the paper.
        aesthetic_score: f that the prior is asked for; None: none.
        prior_guidance: of the prior; 1 switches it off, 10 as released.
        retrieval: "pictures" looks for the picture to edit among pictures; "all", as released, among sounds too, and
            refuses to edit one.
        response: "generated" lets the language model write the result's caption, "given" takes the data's.
        max_new_tokens: longest caption that is written, in tokens.
    """

    num_steps: int = 25
    guidance_scale: float = 10.0
    alpha: float = 0.7
    beta: float = 0.0
    prior_weight: float = 1.0
    gen_weight: float = 1.0
    aesthetic_score: float | None = 6.5
    prior_guidance: float = 1.0
    retrieval: Literal["pictures", "all"] = "pictures"
    response: Literal["given", "generated"] = "generated"
    max_new_tokens: int = 100

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        weights = dict.fromkeys(("beta", "prior_weight", "gen_weight"), (0.0, math.inf))
        check_values(self, "sampling", alpha=(0, 1), max_new_tokens=(1, math.inf), **weights)
        if self.beta == self.prior_weight == self.gen_weight == 0:
            raise ValueError("sampling: expected beta, prior_weight or gen_weight above 0, found 0 for all of them")


class RetrievalError(ValueError):
    """What is to be edited is no picture; one line says which sample."""


class Understood(NamedTuple):
    """What the language model says of a batch.

    Attributes:
        base, gen: H_base and H_gen, [B,D].
        texts: captions of the results.
        forced: whether [gen] was put behind a caption after which it did not come.
        cut: of each sample the captions that were read in part.
    """

    base: Tensor
    gen: Tensor
    texts: list[str]
    forced: list[bool]
    cut: list[list[CutText]]


class Candidates(NamedTuple):
    """What the picture to edit may be: the attachments of each sample in their order, then its source.

    Attributes:
        vectors: H_i, [B,K+1,D].
        pictures: bool [B,K+1].
        sounds: bool [B,K+1].
    """

    vectors: Tensor
    pictures: Tensor
    sounds: Tensor


PostProcessor = Callable[[EditOutput, Batch, Sequence[torch.Generator]], EditOutput]
"""Works on edited pictures: the refiner, the subjects' refinement."""


class Any2PixEditor:
    """Edits one of the pictures of each sample, or draws a new one where there is none.

    Args:
        encoder, reader, prior, decoder: F_enc, F_LLM, F_prior, F_diffusion.
        sampling: how to edit.
        afterwards: what works on the results, in this order.
    """

    optional_fields: tuple[str, ...] = ("source", "attachment_images", "attachment_audio")

    def __init__(
        self,
        encoder: VectorEncoder,
        reader: InstructionReader,
        prior: RefinementPrior,
        decoder: Decoder,
        sampling: Any2PixSampling | None = None,
        afterwards: Sequence[PostProcessor] = (),
    ) -> None:
        self.encoder, self.reader, self.prior, self.decoder = encoder, reader, prior, decoder
        self.sampling = sampling or Any2PixSampling()
        self.afterwards = tuple(afterwards)

    def to(self, device: torch.device | str) -> "Any2PixEditor":
        """On a device, with what works afterwards."""
        for part in (self.encoder, self.reader, self.prior, self.decoder, *self.afterwards):
            if callable(move := getattr(part, "to", None)):  # a function among the last has nothing to move
                move(device)
        return self

    @property
    def autoencoder(self) -> nn.Module:
        """The decoder's."""
        return self.decoder.vae

    @property
    def resolution(self) -> int | None:
        """Of the pictures that the denoiser was made for."""
        return self.decoder.resolution

    @property
    def attachment_size(self) -> int | None:
        """That of the picture to edit, which is one of them."""
        return self.decoder.resolution

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The instruction, and the caption of the result where the data give it."""
        return ("instruction", *(("target_caption",) if self.sampling.response == "given" else ()))

    @property
    def response_source(self) -> ResponseSource:
        """As `sampling` says."""
        return self.sampling.response

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """Settings of the search, where nothing is written."""
        return ("max_new_tokens",) if self.sampling.response == "given" else ()

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Edit a batch, in the size of its images.

        `texts` are the captions of the results. `extras`: "base", of each sample the number of the attachment that was
        edited, -1 for the source, None where there was no picture and noise alone was drawn from; "forced", whether the
        language model had to be led to [gen].

        Raises:
            MissingFieldError: a sample has no instruction.
            InstructionError: a placeholder of no attachment.
            RetrievalError: a sound was found where a picture is to be edited.
            InversionError: a picture that cannot be inverted.
        """
        check_fields(self, batch)
        generators = per_sample(generator, len(batch["key"]))
        candidates = self.candidates(batch)
        said = self.understand(batch, candidates)
        base = self.retrieve(batch, said, candidates)
        condition = self.condition(said, base, candidates)
        images = self.render(batch, base, condition, generators)
        last = candidates.vectors.shape[1] - 1
        numbers = [None if place < 0 else SOURCE if place == last else place for place in base.tolist()]
        output = EditOutput(images, said.texts, {"base": numbers, "forced": said.forced, "cut": said.cut})
        for process in self.afterwards:
            output = process(output, batch, generators)
        return output

    # Lines of Algorithm 1 ----------------------------------------------------------------------------------------

    def candidates(self, batch: Batch) -> Candidates:
        """H_i = F_enc(X_i) of what is attached, and of the source."""
        device = self.encoder.device
        attached, source = self.encoder.attachments(batch), self.encoder.images(batch["source"])
        is_base = torch.tensor(["base" in roles for roles in batch["attachment_roles"]], device=device)
        has_source = batch["has_source"].to(device) & ~is_base  # the source is that attachment then
        pictures = torch.cat([batch["has_attachment_images"].to(device), has_source[:, None]], dim=1)
        sounds = torch.cat([batch["has_attachment_audio"].to(device), torch.zeros_like(has_source)[:, None]], dim=1)
        return Candidates(torch.cat([attached, source[:, None]], dim=1), pictures, sounds)

    def understand(self, batch: Batch, candidates: Candidates) -> Understood:
        """H_base and H_gen, behind the caption that the language model writes or is given."""
        rows = [pieces_of(batch, row, lambda _: False) for row in range(len(batch["key"]))]
        numbers = [[slot.number for slot in slots_in(pieces)] for pieces in rows]
        vectors = slot_vectors(numbers, candidates.vectors[:, -1], candidates.vectors[:, :-1])
        reader, sampling = self.reader, self.sampling
        if sampling.response == "given":
            reader.check_room(rows, reader.prompt_ids(rows))
            whole = list(map(reader.caption_ids, batch["target_caption"]))
            texts, forced, cut = self._fitting(rows, whole), [False] * len(rows), []
            for ids, kept in zip(whole, texts, strict=True):
                lost = len(kept) < len(ids)
                cut.append([CutText("target_caption", "language model", len(ids), len(kept))] if lost else [])
        else:
            written = reader.write(rows, vectors, sampling.max_new_tokens)
            texts, forced, cut = written.ids, written.forced, [[] for _ in rows]
        if any(forced):
            logger.warning(
                "%d of %d captions did not reach [gen], which was put behind them; train longer, or raise "
                "sampling.max_new_tokens (%d)",
                sum(forced),
                len(rows),
                sampling.max_new_tokens,
            )
        read = reader(reader.with_answers(rows, texts), vectors)
        captions = [text.strip() for text in reader.tokenizer.batch_decode(texts, skip_special_tokens=True)]
        return Understood(read.base, read.gen, captions, forced, cut)

    def _fitting(self, rows: Sequence[Any], captions: list[list[int]]) -> list[list[int]]:
        """Captions, cut to the language model's context."""
        rooms = map(self.reader.room, self.reader.prompt_ids(rows))
        return [ids[:room] for ids, room in zip(captions, rooms, strict=True)]

    def retrieve(self, batch: Batch, said: Understood, candidates: Candidates) -> Tensor:
        """k, int64 [B]; -1 where there is no picture to edit."""
        allowed = candidates.pictures
        if self.sampling.retrieval == "all":
            allowed = allowed | candidates.sounds
        found = retrieve(said.base, candidates.vectors, allowed)
        for row, place in enumerate(found.tolist()):
            if place >= 0 and candidates.sounds[row, place]:
                raise RetrievalError(
                    f"sample {batch['key'][row]!r}: expected a picture to edit, found the sound <audio:{place}>; set "
                    "sampling.retrieval to pictures"
                )
        return found

    def condition(self, said: Understood, base: Tensor, candidates: Candidates) -> Tensor:
        """H'_gen / ||H'_gen||, [B,D]."""
        sampling = self.sampling
        rows = torch.arange(len(base), device=base.device)
        own = candidates.vectors[rows, base.clamp(min=0)].masked_fill((base < 0)[:, None], 0)
        gen = F.normalize(said.gen, dim=-1)
        refined = torch.zeros_like(gen)
        if sampling.prior_weight:
            kind = torch.full((len(gen),), IMAGE, device=gen.device)
            refined = self.prior.refine(gen, kind, kind, sampling.aesthetic_score, sampling.prior_guidance)
        return mix_conditions(refined, gen, own, sampling.beta, sampling.prior_weight, sampling.gen_weight)

    def render(self, batch: Batch, base: Tensor, condition: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The pictures X_out: z'_k and what is drawn from it; without a picture to edit, from noise alone."""
        size: Any = tuple(batch["source"].shape[-2:])
        decoder, sampling = self.decoder, self.sampling
        branches = decoder.branches(condition, size)
        noisy = draw_noise(latent_shape(decoder.vae, *size), generators, decoder.device)
        inverter = Inverter(decoder.vae, decoder.unet, decoder.scheduler, sampling.num_steps)
        rows = (base >= 0).nonzero().flatten().tolist()
        if rows:
            null = decoder.branches(condition[rows], size)["null"]
            pictures, keys = self._pictures(batch, base)[rows], [batch["key"][row] for row in rows]
            noisy[rows] = mix_noise(inverter.invert(pictures, null, keys), noisy[rows], sampling.alpha)
        return inverter.draw(noisy, branches, sampling.guidance_scale)

    def _pictures(self, batch: Batch, base: Tensor) -> Tensor:
        """X_k in the size of the batch's images, [B,3,H,W]."""
        source = batch["source"]
        last = batch["attachment_images"].shape[1]
        found = []
        for row, place in enumerate(base.tolist()):
            picture = source[row] if place in (-1, last) else batch["attachment_images"][row, place]
            if picture.shape != source[row].shape:
                picture = F.interpolate(picture[None], source.shape[-2:], mode="bicubic", antialias=True)[0]
            found.append(picture)
        return torch.stack(found).clamp(-1, 1)
