"""Subject refinement (Li et al. 2023, section 10.5): each subject of an edited picture is drawn again under the vector
of its own picture, where a segmenter finds it.

The paper lets the language model list the subjects with a [base] token each. Here a subject is an attached picture that
stands before a word, `<image:1> dog`: the word is what the segmenter looks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch, words_in
from mmig.base.values import check_values
from mmig.diffusion.conditioning import denoise
from mmig.diffusion.guidance import guided, text_guidance
from mmig.diffusion.latents import decode, encode
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.sampling import Step, draw_noise, sample
from mmig.editor import EditOutput
from mmig.methods.instruct_any2pix.decoder import Decoder
from mmig.methods.instruct_any2pix.inverting import as_ddim
from mmig.methods.instruct_any2pix.segmenting import Segmenter
from mmig.methods.instruct_any2pix.vectors import VectorEncoder


@dataclass(frozen=True)
class SubjectSettings:
    """How subjects are drawn again; the released numbers.

    Attributes:
        num_steps: of the whole schedule.
        strength: how far the noise goes.
        guidance_scale: of the denoiser.
        erode, dilate, blur: of a mask, in pixels of a picture of 1,024; scaled with the picture.
    """

    num_steps: int = 50
    strength: float = 0.6
    guidance_scale: float = 10.0
    erode: int = 10
    dilate: int = 40
    blur: int = 20

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "subjects", **dict.fromkeys(("erode", "dilate", "blur"), (0, 1024)))


class SubjectRefinement:
    """A `PostProcessor` of `Any2PixEditor`; `extras["subjects"]` has the phrases that were drawn again, of each sample.

    Args:
        encoder, decoder: of the editor.
        segmenter: finds subjects.
        settings: how.
    """

    def __init__(
        self,
        encoder: VectorEncoder,
        decoder: Decoder,
        segmenter: Segmenter,
        settings: SubjectSettings | None = None,
    ) -> None:
        self.encoder, self.decoder, self.segmenter = encoder, decoder, segmenter
        self.settings = settings or SubjectSettings()

    def to(self, device: torch.device | str) -> "SubjectRefinement":
        """The segmenter on a device; encoder and decoder are the editor's."""
        if callable(move := getattr(self.segmenter, "to", None)):
            move(device)
        return self

    @torch.no_grad()
    def __call__(self, output: EditOutput, batch: Batch, generators: Sequence[torch.Generator]) -> EditOutput:
        """The pictures with their subjects drawn again, one after another; what is not found stays."""
        images, said = output.images.clone(), []
        vectors = self.encoder.attachments(batch)
        for row, generator in enumerate(generators):
            drawn = []
            for number, phrase in subjects_of(batch, row, output.extras["base"][row]).items():
                mask = self.segmenter(images[row], phrase)
                if mask is not None:
                    wider = grown(mask, self.settings)
                    images[row] = self._again(images[row : row + 1], wider, vectors[row, number][None], generator)[0]
                    drawn.append(phrase)
            said.append(drawn)
        return replace(output, images=images, extras=output.extras | {"subjects": said})

    def _again(self, image: Tensor, mask: Tensor, vector: Tensor, generator: torch.Generator) -> Tensor:
        """One picture [1,3,H,W], drawn again where the mask [H,W] is, and kept elsewhere."""
        decoder, settings = self.decoder, self.settings
        size: Any = tuple(image.shape[-2:])
        process = NoiseProcess.from_scheduler(decoder.scheduler)
        clean = encode(decoder.vae, image.to(decoder.device, decoder.vae.dtype))
        inside = F.interpolate(mask[None, None], clean.shape[-2:], mode="area").to(clean)
        noise = draw_noise(clean.shape[1:], [generator], clean.device)

        def keep_outside(latents: Tensor, step: Step) -> Tensor:
            known = process.add_noise(clean, noise, step.timestep.to(clean.device).expand(1))
            return inside * latents + (1 - inside) * known

        denoiser = guided(
            lambda noisy, timesteps, condition: denoise(decoder.unet, noisy, timesteps, condition),
            decoder.branches(vector, size),
            text_guidance(settings.guidance_scale),
        )
        latents = sample(
            denoiser,
            as_ddim(decoder.scheduler),
            clean.shape[1:],
            settings.num_steps,
            [generator],
            source_latents=clean,
            strength=settings.strength,
            device=clean.device,
            before_step=keep_outside,
        )
        drawn = decode(decoder.vae, latents.to(decoder.vae.dtype)).float().clamp(-1, 1)
        return mask * drawn + (1 - mask) * image


def subjects_of(batch: Batch, row: int, base: int | None) -> dict[int, str]:
    """The attached pictures of a sample that stand for a word, without the one that was edited: number -> word."""
    text, words = words_in(batch, row, "instruction")
    kinds = batch["attachment_kinds"][row]
    return {
        number: text[slice(*word)]
        for number, (kind, word) in enumerate(zip(kinds, words, strict=True))
        if kind == "image" and word is not None and number != base
    }


def grown(mask: Tensor, settings: SubjectSettings) -> Tensor:
    """A mask [H,W] in [0,1] without its specks, widened, with a soft edge."""
    scale = max(mask.shape) / 1024
    widths = {name: 2 * round(getattr(settings, name) * scale / 2) + 1 for name in ("erode", "dilate", "blur")}
    found = mask[None, None].float()
    found = -_highest(-found, widths["erode"])
    found = _highest(found, widths["dilate"])
    soft = widths["blur"]
    padded = F.pad(found, [soft // 2] * 4, mode="replicate")
    return F.avg_pool2d(padded, soft, stride=1)[0, 0]


def _highest(values: Tensor, width: int) -> Tensor:
    return F.max_pool2d(values, width, stride=1, padding=width // 2)
