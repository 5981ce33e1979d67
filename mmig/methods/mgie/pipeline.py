"""Inference of MGIE and LGIE: the language model writes, the edit head guides, the denoiser edits by two scales."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.base.texts import CutText
from mmig.base.values import check_values
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.guidance import instruct_pix2pix_guidance, source_branches
from mmig.diffusion.latents import encode_unscaled, usual_resolution
from mmig.diffusion.sampling import Generators, per_sample
from mmig.editor import EditOutput, ResponseSource, check_fields, with_settings
from mmig.methods.mgie.head import EditHead
from mmig.methods.mgie.writer import Encoded, InstructionWriter

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MGIESampling:
    """How to edit; the defaults are those of the released demo.

    Attributes:
        num_steps: of the sampler.
        guidance_scale: a_X, weight of the guidance.
        image_guidance_scale: a_V, weight of the source image.
        response: "generated" lets the language model write the expressive instruction, "given" takes the batch's.
        max_new_tokens: longest expressive instruction that is written, in tokens.
        no_repeat_ngram: length of token sequences that it may not hold twice; 0 forbids none.
    """

    num_steps: int = 100
    guidance_scale: float = 7.5
    image_guidance_scale: float = 1.5
    response: Literal["given", "generated"] = "generated"
    max_new_tokens: int = 96
    no_repeat_ngram: int = 3

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "sampling", max_new_tokens=(1, math.inf), no_repeat_ngram=(0, math.inf))


class _Texts(NamedTuple):
    """Expressive instructions, ready to guide: as text and as ids, what of each was cut, which [IMG] were forced."""

    texts: list[str]
    encoded: Encoded
    cut: list[list[CutText]]
    forced: list[bool]


class MGIEPipeline:
    """Edits the source image by an instruction, and says by what expressive instruction.

    Args:
        vae: frozen autoencoder.
        unet: denoiser with twice as many input channels as the latents have.
        scheduler: any diffusers scheduler.
        writer: the language model.
        head: the edit head.
        sampling: how to edit.
    """

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        scheduler: Any,
        writer: InstructionWriter,
        head: EditHead,
        sampling: MGIESampling | None = None,
    ) -> None:
        self.vae, self.unet, self.scheduler, self.writer, self.head = vae, unet, scheduler, writer, head
        self.sampling = sampling or MGIESampling()

    @property
    def resolution(self) -> int | None:
        """Of the images that the UNet was made for."""
        return usual_resolution(self.vae, self.unet)

    @property
    def required_fields(self) -> tuple[str, ...]:
        """Source and instruction, and the expressive instruction where the data give it."""
        return ("source", "instruction", *(("expressive",) if self.sampling.response == "given" else ()))

    @property
    def response_source(self) -> ResponseSource:
        """As `sampling` says."""
        return self.sampling.response

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """Settings of the search, where nothing is written."""
        return ("max_new_tokens", "no_repeat_ngram") if self.sampling.response == "given" else ()

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Edit a batch; `extras` as of `edit`.

        Raises:
            MissingFieldError: a sample has no picture, or another field is missing.
        """
        check_fields(self, batch)
        given = batch["expressive"] if self.sampling.response == "given" else None
        return self.edit(batch["source"], batch["instruction"], generator, given)

    @torch.no_grad()
    def write(self, batch: Batch) -> list[str]:
        """The expressive instruction of each sample, written by the language model (`Writes`)."""
        check_fields(with_settings(self, {"response": "generated"}), batch)
        return self._written(batch["instruction"], self.writer.visual_tokens(batch["source"])).texts

    @torch.no_grad()
    def edit(
        self,
        source: Tensor | None,
        instructions: Sequence[str],
        generators: Generators,
        expressive: Sequence[str] | None = None,
    ) -> EditOutput:
        """Images made from `source` [B,3,H,W] in [-1,1], and the expressive instructions that guided them.

        A text after which the language model did not write [IMG] of its own accord, within `max_new_tokens` or its
        context, guides all the same: the tokens are put behind what there is of it, `extras["forced"]` (list of bool)
        says for which samples, and a warning how many they are. `extras["cut"]` has the given texts that are longer
        than the context.

        Args:
            source: the pictures.
            instructions: X, one a picture.
            generators: one for all, or one a picture.
            expressive: E, one a picture; None lets the language model write them.

        Raises:
            ValueError: no picture, other numbers of texts or generators than pictures, or an instruction that is longer
                than the context.
        """
        self._check(source, instructions, expressive)
        generators = per_sample(generators, len(source))
        visual = self.writer.visual_tokens(source)
        found = self._written(instructions, visual) if expressive is None else self._given(instructions, expressive)
        if any(found.forced):
            logger.warning(
                "%d of %d texts did not reach their [IMG] tokens, which were put behind them; "
                "train longer, or raise sampling.max_new_tokens (%d)",
                sum(found.forced),
                len(source),
                self.sampling.max_new_tokens,
            )
        images = self._render(source, self.writer.states(found.encoded, visual), generators)
        return EditOutput(images, found.texts, {"cut": found.cut, "forced": found.forced})

    def _check(self, source: Tensor | None, instructions: Sequence[str], expressive: Sequence[str] | None) -> None:
        if source is None:
            raise ValueError("source: expected the picture to edit, float [B,3,H,W] in [-1,1], found none")
        for name, texts in (("instructions", instructions), ("expressive", expressive)):
            if texts is not None and (isinstance(texts, str) or len(texts) != len(source)):
                found = "one text" if isinstance(texts, str) else str(len(texts))
                raise ValueError(f"{name}: expected a list with one for each of {len(source)} images, found {found}")

    def _written(self, instructions: Sequence[str], visual: Tensor | None) -> _Texts:
        writer, sampling = self.writer, self.sampling
        written = writer.write(instructions, visual, sampling.max_new_tokens, sampling.no_repeat_ngram)
        texts = [text.strip() for text in writer.tokenizer.batch_decode(written.ids, skip_special_tokens=True)]
        encoded = self._encoded(writer.prompts(instructions), written.ids)
        return _Texts(texts, encoded, [[] for _ in texts], written.forced)

    def _given(self, instructions: Sequence[str], expressive: Sequence[str]) -> _Texts:
        writer, prompts = self.writer, self.writer.prompts(instructions)
        writer.check_room(instructions, prompts)
        texts, cut = writer.text_ids(expressive), []
        for row, (ids, prompt) in enumerate(zip(texts, prompts, strict=True)):
            texts[row] = ids[: writer.room(prompt)]
            is_cut = len(texts[row]) < len(ids)
            cut.append([CutText("expressive", "language model", len(ids), len(texts[row]))] if is_cut else [])
        return _Texts(list(expressive), self._encoded(prompts, texts), cut, [False] * len(prompts))

    def _encoded(self, prompts: list[list[int]], texts: Sequence[list[int]]) -> Encoded:
        answers = [ids + self.writer.image_ids for ids in texts]
        return Encoded(prompts, answers, torch.ones(len(prompts), dtype=torch.bool))

    def _render(self, source: Tensor, states: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Images [B,3,H,W] in [-1,1] under the states h at the [IMG] tokens, by two guidance scales.

        s(0,0) + a_V (s(V,0) - s(0,0)) + a_X (s(V,u) - s(V,0)), with the null guidance head(0 + e) for u = 0.
        """
        rows, sampling = self.writer.tokens.input_rows(), self.sampling
        guidance = self.head(states, rows)
        null = self.head(torch.zeros_like(states[:1]), rows).expand_as(guidance)
        latents = encode_unscaled(self.vae, source.to(self.vae.dtype))
        return draw_guided(
            self.vae,
            self.unet,
            self.scheduler,
            source_branches(Conditioning(guidance), Conditioning(null), latents),
            instruct_pix2pix_guidance(sampling.guidance_scale, sampling.image_guidance_scale),
            source.shape[-2:],
            sampling.num_steps,
            generators,
            source.device,
        )
