"""Training of InstructPix2Pix: source latents on extra input channels, text through cross-attention."""

import math
from bisect import bisect
from collections.abc import Mapping
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.diffusion import check_compatible, load_unet
from mmig.backbones.loading import prepare
from mmig.backbones.named import Backbone, BackboneSettings
from mmig.backbones.parts import TEXT_ENCODER, UNET, UNET_PIPELINE
from mmig.cache.frozen import CachedFeature
from mmig.cache.latent import LatentFeatures
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.conditioning import Conditioning, condition_drops
from mmig.diffusion.fresh import UNetSize, fresh_unet
from mmig.diffusion.latents import from_posterior, reduction
from mmig.diffusion.losses import edit_weights
from mmig.diffusion.process import Weighting
from mmig.diffusion.saving import UNFILTERED, save_pipeline
from mmig.diffusion.sdxl import TextCondition, conditioning
from mmig.editor import Editor
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, InstructPix2PixPipeline, TextField
from mmig.training.latent_module import LatentModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

Latents = Literal["mode", "sample"]
MIXED: tuple[TextField, ...] = ("instruction", "response", "target_caption")
TEXT_FIELDS: tuple[TextField, ...] = (*MIXED, "expressive")
TextSource = TextField | Literal["mixed"] | dict[TextField, float]
EMPTY_TEXT = {"force_zeros_for_empty_prompt": False}
OPENED_BY = "mmig.methods.instruct_pix2pix.pipeline.open_editor"
ABOUT = """Instruction-guided image editing with InstructPix2Pix (Brooks et al. 2023): a latent diffusion model that \
sees the source image on extra input channels and follows {text}.

## Use

```python
from diffusers import {pipeline}
from PIL import Image

pipe = {pipeline}.from_pretrained("{name}")
pipe("make the ball blue", image=Image.open("in.png")).images[0].save("out.png")
```"""
"""What a folder's card says; `text` is what the denoiser was trained on, `pipeline` the class that opens it."""


class InstructPix2PixModule(LatentModule):
    """Trains an 8-channel UNet to edit the source by a text, Stable Diffusion's or SDXL's; loss term `sdm` (L_SDM).

    The image condition is the mode of the source's posterior, unscaled, as published. One uniform draw u a sample
    drops conditions: u < 2d the text, d <= u < 3d the image, so that d lose the text alone, d both and d the image.

    Args:
        optimizer, backbone, weighting, timestep_exponent, seed, micro_batch_size: see `LatentModule`.
        loss_weights: of `sdm`.
        unet: folder or hub id of the UNet to start from, whose 4 input channels are widened to 8 (new ones zero, bias
            kept); or the sizes of a fresh one, which is SDXL's where the backbone has two text encoders.
        text: which text the UNet is given: the instruction, the response, the target caption, the expressive
            instruction; or one of those with a share, drawn for each sample ({instruction: 2, response: 1}: the
            instruction of two in three); "mixed": the first three evenly.
        drop: d above.
        generation: part of the remaining samples that train text-to-image: no source, the target caption. The first 4
            input channels are then a text-to-image UNet. Not in the published recipe.
        target_latents: what the noise is added to: a "sample" of the target's posterior (published) or its "mode".
        edit_weight: how much more a position counts where the edit's masks say that something changes, positive.
            1 as published; then no masks are read.
        gradient_checkpointing: recompute activations of what trains in the backward.
        train_text_encoder: the text encoder trains along, and its states are not cached. Published: frozen; SDXL's two
            are always.
        sampling: how `make_pipeline` samples.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """

    needed_fields = ("target",)
    backbone_settings: ClassVar[BackboneSettings] = {
        "backbone": {name: part for name, part in UNET_PIPELINE.items() if part is not UNET},
        "unet": {"unet": UNET},
    }

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        backbone: str | Backbone,
        unet: str | Backbone | UNetSize,
        text: TextSource = "instruction",
        drop: float = 0.05,
        generation: float = 0.0,
        target_latents: Latents = "sample",
        edit_weight: float = 1.0,
        weighting: Weighting = "uniform",
        timestep_exponent: float = 1.0,
        gradient_checkpointing: bool = False,
        train_text_encoder: bool = False,
        sampling: EditSampling | None = None,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, backbone, unet, weighting, timestep_exponent, seed, micro_batch_size)
        self.unet = self._editing_unet(unet, gradient_checkpointing).to(memory_format=torch.channels_last)
        self.train_text_encoder = train_text_encoder
        if train_text_encoder and self.text_encoder_2 is not None:
            raise ValueError("train_text_encoder: SDXL's two text encoders stay frozen; expected false")
        if train_text_encoder:
            prepare(self.text_encoder, frozen=False, gradient_checkpointing=gradient_checkpointing)
            self.exported_parts = {**self.exported_parts, TEXT_ENCODER.name: TEXT_ENCODER.name}
        self.text: TextSource = text
        text_shares(text)
        self.sampling = sampling
        self.drop = drop
        self.generation = generation
        self.target_latents: Latents = target_latents
        self.edit_weight = edit_weight
        self.features = LatentFeatures(self, self.feature_facts)
        self.features.declare(*self._frozen_features())

    def _editing_unet(self, unet: str | Backbone | UNetSize, gradient_checkpointing: bool) -> nn.Module:
        """The UNet that trains, loaded and widened, or fresh; it fits the other parts."""
        channels = self.vae.config.latent_channels
        if "unet" in self.origins:
            recompute = {"gradient_checkpointing": gradient_checkpointing}
            found = load_unet(self.origins["unet"], in_channels=2 * channels, frozen=False, **recompute)
        else:
            second = None if self.text_encoder_2 is None else self.text_encoder_2.config
            width = self.text_encoder.config.hidden_size + (second.hidden_size if second else 0)
            found = fresh_unet(unet, 2 * channels, channels, width, second.projection_dim if second else None)
        check_compatible(found, self.text_encoder, self.vae, self.tokenizer, self.text_encoder_2)
        return found

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Squared error of the denoiser's prediction; samples that have a target count."""
        counts = batch["has_target"].to(self.device)
        return {"sdm": LossTerm(counts, lambda: self._error(batch, draws))}

    def _error(self, batch: Batch, draws: Draws) -> Tensor:
        """L_SDM of each sample, [B]."""
        target, condition = self._conditioned_latents(batch, draws)
        positions = None
        if self.edit_weight != 1:
            masks = torch.cat([batch["target_mask"], batch["reference_mask"]], dim=1).to(target.device)
            positions = edit_weights(masks, tuple(target.shape[-2:]), self.edit_weight)
        return self.sdm(self.unet, target, condition, draws, positions)

    def _conditioned_latents(self, batch: Batch, draws: Draws) -> tuple[Tensor, Conditioning]:
        """Normalised latents of the targets, and text and source that condition each."""
        fields, without_image = self._fields(batch, draws)
        with torch.set_grad_enabled(self.train_text_encoder and torch.is_grad_enabled()):
            text = TextCondition(self.features.text(batch, fields)[0], self.features.pooled(batch, fields))
        target, source = self._latents(batch, without_image, draws)
        height, width = (side * reduction(self.vae) for side in target.shape[-2:])
        return target, replace(conditioning(self.unet, text, (height, width)), image_latents=source)

    @torch.no_grad()
    def _latents(self, batch: Batch, without_image: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Normalised latents of the targets; those of the sources, zero where there is none."""
        target = self.features.posterior(batch, "target")
        noise = None
        if self.target_latents == "sample":
            noise = draws.normal("posterior", target.mean.shape[1:]).to(target.mean.device)
        source = self.features.posterior(batch, "source").mode()
        hidden = without_image.to(source.device) | ~batch["has_source"].to(source.device)
        return from_posterior(self.vae, target, noise), source.masked_fill(hidden.view(-1, 1, 1, 1), 0.0)

    def _fields(self, batch: Batch, draws: Draws) -> tuple[list[str], Tensor]:
        """Which text of each sample after the drops ("": none), and whether its image is dropped, bool [B]."""
        drop_text, drop_image = condition_drops(draws.uniform("condition_drop"), self.drop)
        generate = draws.bernoulli("generation", self.generation) & ~drop_text & ~drop_image
        fields = condition_fields(batch, self.text, draws)
        for row, (dropped, generated) in enumerate(zip(drop_text.tolist(), generate.tolist(), strict=True)):
            fields[row] = "" if dropped else "target_caption" if generated else fields[row]
        return fields, drop_image | generate

    def _frozen_features(self) -> list[CachedFeature]:
        """Features that may be cached: both posteriors, and every text that may be chosen, if its encoder is frozen."""
        fields = {*text_shares(self.text)}
        if self.generation > 0:
            fields.add("target_caption")
        known = [*map(self.features.of_latents, ("source", "target"))]
        if not self.train_text_encoder:
            for field in sorted(fields):
                known += [self.features.of_text(field), *self.features.of_pooled(field)]
        return known

    def named_backbones(self) -> dict[str, nn.Module]:
        """The frozen ones."""
        kept = super().named_backbones()
        if self.train_text_encoder:
            del kept[TEXT_ENCODER.name]
        return kept

    @property
    def images_with_features(self) -> frozenset[str]:
        """Both."""
        return frozenset({"source", "target"})

    def own_names(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Published files name the layers of CLIP's text tower `text_model.`, its module of today does not."""
        own = self.state_dict()
        bare = {name: name.replace("text_encoder.text_model.", "text_encoder.", 1) for name in weights}
        return {bare[name] if bare[name] in own else name: value for name, value in weights.items()}

    def make_pipeline(self) -> Editor:
        """Edits the source by the text that the UNet was trained on (of several: the instruction if it is one)."""
        return InstructPix2PixPipeline(
            self.vae,
            self.unet,
            self.text_encoder,
            self.tokenizer,
            self.scheduler,
            text=self._edit_text,
            sampling=self.sampling,
            text_encoder_2=self.text_encoder_2,
            tokenizer_2=self.tokenizer_2,
        )

    def export(self, folder: Path, config: Mapping[str, Any]) -> str:
        """The whole pipeline, for diffusers' `StableDiffusionInstructPix2PixPipeline`, or the one of SDXL's form."""
        of_sdxl = self.text_encoder_2 is not None
        pipeline = f"StableDiffusion{'XL' if of_sdxl else ''}InstructPix2PixPipeline"
        # in training a dropped text is the empty one, where diffusers' SDXL would have zeros
        save_pipeline(folder, pipeline, self.pipeline_parts, EMPTY_TEXT if of_sdxl else UNFILTERED)
        sampling = None if self.sampling is None else asdict(self.sampling)
        own = {"zero_null": False} if of_sdxl else {}
        write_editor(folder, OPENED_BY, text=self._edit_text, sampling=sampling, **own)
        about = ABOUT.replace("{text}", f"the {self._edit_text.replace('_', ' ')} of an edit")
        return about.replace("{pipeline}", pipeline)

    @property
    def _edit_text(self) -> TextField:
        return next(name for name in TEXT_FIELDS if name in text_shares(self.text))


def text_shares(text: TextSource) -> dict[TextField, float]:
    """The texts that are drawn and the share of each, in the order of `TEXT_FIELDS`.

    Raises:
        ValueError: there is none or an unknown one, or a share is not positive.
    """
    if text == "mixed":
        return dict.fromkeys(MIXED, 1.0)
    shares = text if isinstance(text, dict) else {text: 1.0}
    known = set(shares) <= set(TEXT_FIELDS)
    if not shares or not known or not all(0 < share < math.inf for share in shares.values()):
        raise ValueError(f"text: expected positive shares of {', '.join(TEXT_FIELDS)}, found {shares}")
    return {name: shares[name] for name in TEXT_FIELDS if name in shares}


def condition_fields(batch: Batch, text: TextSource, draws: Draws) -> list[str]:
    """Which text of each sample; of several one that the sample has ("" if it has none), drawn by their shares."""
    if text in TEXT_FIELDS:
        return [text] * len(batch["key"])
    shares, chosen = text_shares(text), []
    for row, draw in enumerate(draws.uniform("text").tolist()):
        given = [name for name in shares if batch[name][row]]
        bounds = [*accumulate(shares[name] for name in given)]
        chosen.append(given[bisect(bounds, draw * bounds[-1], hi=len(bounds) - 1)] if given else "")
    return chosen
