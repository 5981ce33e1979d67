"""Inference of UMM-Diffusion: a caption and pictures of subjects to an image, three branches in one batch (eq 8)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.clip_image import ClipImageEncoder
from mmig.base.values import check_values
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.latents import usual_resolution
from mmig.diffusion.sampling import Generators, per_sample
from mmig.diffusion.text import encode_text, texts_cut
from mmig.editor import EditOutput, ResponseSource, check_fields
from mmig.methods.umm_diffusion.conditions import fused_guidance
from mmig.methods.umm_diffusion.encoder import PseudoWord, unified_states
from mmig.methods.umm_diffusion.words import MultiToken, PlacedSubjects, SubjectError, all_lost, place_subjects

FIELD = "target_caption"
"""y: what the image is to show, with the placeholders of the subjects."""


@dataclass(frozen=True)
class SubjectSampling:
    """How to draw; the defaults are those of the paper.

    Attributes:
        num_steps: of DDIM.
        guidance_scale: w of eq 8; 1 switches it off.
        fuse_ratio: alpha of eq 7 and 8: 1 draws by text and pictures alone, which keeps most of the subject and of its
            background; 0 by the text alone, and needs no picture.
    """

    num_steps: int = 50
    guidance_scale: float = 7.5
    fuse_ratio: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "sampling", fuse_ratio=(0, 1))


class SubjectEditor:
    """Draws the images of captions in which pictures stand for words.

    Args:
        vae, text_encoder, tokenizer: of Stable Diffusion, frozen.
        unet: denoiser of as many input channels as the latents have.
        scheduler: any diffusers scheduler; its noise process is sampled by DDIM.
        image_encoder: CLIP's, frozen.
        pseudo_word: the MLP.
        multi_token: what becomes of words of several tokens, as it was trained.
        sampling: how to draw.
    """

    response_source: ResponseSource = "given"
    optional_fields: tuple[str, ...] = ("attachment_images",)

    def __init__(
        self,
        vae: nn.Module,
        unet: nn.Module,
        text_encoder: nn.Module,
        tokenizer: Any,
        scheduler: Any,
        image_encoder: ClipImageEncoder,
        pseudo_word: PseudoWord,
        multi_token: MultiToken = "last",
        sampling: SubjectSampling | None = None,
    ) -> None:
        self.vae, self.unet, self.text_encoder, self.tokenizer = vae, unet, text_encoder, tokenizer
        self.scheduler, self.image_encoder, self.pseudo_word = scheduler, image_encoder, pseudo_word
        self.multi_token: MultiToken = multi_token
        self.sampling = sampling or SubjectSampling()

    @property
    def resolution(self) -> int | None:
        """Of the images that the UNet was made for."""
        return usual_resolution(self.vae, self.unet)

    @property
    def attachment_size(self) -> int:
        """That of the image encoder's pictures."""
        return self.image_encoder.tower.config.image_size

    @property
    def required_fields(self) -> tuple[str, ...]:
        """The caption, and pictures where they count."""
        return (FIELD, "attachment_images") if self.sampling.fuse_ratio > 0 else (FIELD,)

    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Draw one image a sample, of the size of the batch's images; `texts` are the captions without placeholders.

        Raises:
            MissingFieldError: a sample has no caption or no picture.
            SubjectError: a picture that can take no word's place.
        """
        check_fields(self, batch)
        placed = place_subjects(self.tokenizer, batch, FIELD, self.multi_token)
        if self.sampling.fuse_ratio > 0 and (lost := next(all_lost(placed, batch["key"]), None)):
            raise SubjectError(lost)
        height, width = batch["target"].shape[-2:]
        images = self.draw(placed, batch["attachment_images"], (height, width), generator)
        return EditOutput(images, placed.texts, {"cut": texts_cut(self.tokenizer, placed.texts, FIELD)})

    @torch.no_grad()
    def draw(self, placed: PlacedSubjects, pictures: Tensor, size: tuple[int, int], generators: Generators) -> Tensor:
        """Images [B,3,H,W] in [-1,1].

        Args:
            placed: captions and the tokens of their subjects.
            pictures: of the subjects, [B,K,3,h,w] in [-1,1]; read where the fuse ratio is above 0.
            size: (H, W) in pixels.
            generators: one for all, or one a sample.

        Raises:
            ValueError: another number of generators than samples.
        """
        generators, sampling = per_sample(generators, len(placed.texts)), self.sampling
        weights = fused_guidance(sampling.guidance_scale, sampling.fuse_ratio)
        branches = {name: Conditioning(states) for name, states in self._states(placed, pictures, weights).items()}
        scheduler, device = as_ddim(self.scheduler), self.text_encoder.device
        return draw_guided(
            self.vae, self.unet, scheduler, branches, weights, size, sampling.num_steps, generators, device
        )

    def pseudo_words(self, pictures: Tensor) -> Tensor:
        """V of pictures [B,K,3,h,w] in [-1,1], [B,K,D]."""
        embeddings = self.image_encoder(pictures.flatten(0, 1).to(self.text_encoder.device))
        return self.pseudo_word(embeddings).unflatten(0, pictures.shape[:2])

    def _states(self, placed: PlacedSubjects, pictures: Tensor, weights: dict[str, float]) -> dict[str, Tensor]:
        """Text states of the branches that count."""
        device = self.text_encoder.device
        ids = placed.ids.to(device)
        if weights["unified"] != 0:
            states = unified_states(self.text_encoder, ids, placed.owner.to(device), self.pseudo_words(pictures))
            found = {"unified": states.unified, "text": states.text}
        else:
            found = {"text": self.text_encoder(ids).last_hidden_state}
        null = encode_text(self.text_encoder, self.tokenizer, [""])[0]
        return found | {"null": null.expand_as(found["text"])}


def as_ddim(scheduler: Any) -> Any:
    """DDIM (Song et al. 2021) over the noise process of another scheduler of diffusers.

    Stable Diffusion's folder names PNDM; the paper samples with DDIM.
    """
    from diffusers import DDIMScheduler

    return scheduler if isinstance(scheduler, DDIMScheduler) else DDIMScheduler.from_config(scheduler.config)
