"""Any-to-image without an instruction (Li et al. 2023, section 4.5.3): a text, a picture or a sound is drawn."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datamodules.schema import Batch
from mmig.backbones.parts import IMAGEBIND_PARTS
from mmig.base.values import check_values
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.drawing import draw_guided
from mmig.diffusion.guidance import text_guidance
from mmig.diffusion.sampling import Generators, per_sample
from mmig.diffusion.saving import forget_origins, save_parts
from mmig.editor import EditOutput, ResponseSource
from mmig.methods.instruct_any2pix.decoder import DECODER_PARTS, Decoder, load_decoder, save_decoder
from mmig.methods.instruct_any2pix.prior import PRIOR, RefinementPrior, load_prior
from mmig.methods.instruct_any2pix.vectors import IMAGE, KINDS, TEXT, VectorEncoder, load_encoder, save_encoder

ABOUT = """The decoder of InstructAny2Pix (Li et al. 2023): draws the ImageBind vector of a picture, a text or a sound.

## Use

`python edit.py --checkpoint {name} --attach image=cat.png --instruction "draw <image:0>" --out out.png`

As the backbone `decoder` of a language phase it takes the place of any other (docs/instruct_any2pix.md)."""
"""What a folder's card says; `name` is the folder's."""


@dataclass(frozen=True)
class AnySampling:
    """How to draw.

    Attributes:
        num_steps: of the sampler.
        guidance_scale: of the denoiser; 10 as released.
        aesthetic_score: f that the prior is asked for, about 1 to 10; None: none.
        prior_guidance: of the prior; 1 switches it off.
        prior_weight: how much of the drawn vector is the prior's; the rest is the encoder's own. Of no use without one.
    """

    num_steps: int = 25
    guidance_scale: float = 10.0
    aesthetic_score: float | None = 6.5
    prior_guidance: float = 1.0
    prior_weight: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "sampling", prior_weight=(0, 1))


class AnyToImageEditor:
    """Draws the first attachment of each sample, or its text where it has none.

    Args:
        encoder: gives the vectors.
        decoder: draws them.
        prior: makes those of a text or a sound into a picture's; None draws them as they are.
        sampling: how to draw.
    """

    response_source: ResponseSource = "none"
    required_fields: tuple[str, ...] = ()
    optional_fields: tuple[str, ...] = ("attachment_images", "attachment_audio", "target_caption")

    def __init__(
        self,
        encoder: VectorEncoder,
        decoder: Decoder,
        prior: RefinementPrior | None = None,
        sampling: AnySampling | None = None,
    ) -> None:
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
        self.sampling = sampling or AnySampling()

    @property
    def idle_settings(self) -> tuple[str, ...]:
        """Those of the prior, where there is none."""
        return () if self.prior is not None else ("aesthetic_score", "prior_guidance", "prior_weight")

    @property
    def autoencoder(self) -> nn.Module:
        """The decoder's."""
        return self.decoder.vae

    @property
    def resolution(self) -> int | None:
        """Of the pictures that the denoiser was made for."""
        return self.decoder.resolution

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: Generators) -> EditOutput:
        """Draw one picture a sample, of the size of the batch's."""
        vectors, modality = self._given(batch)
        sampling, generators = self.sampling, per_sample(generator, len(vectors))
        if self.prior is not None:
            target = torch.full_like(modality, IMAGE)
            refined = self.prior.refine(vectors, modality, target, sampling.aesthetic_score, sampling.prior_guidance)
            vectors = sampling.prior_weight * refined + (1 - sampling.prior_weight) * vectors
        size: Any = tuple(batch["target"].shape[-2:])
        decoder = self.decoder
        images = draw_guided(
            decoder.vae,
            decoder.unet,
            decoder.scheduler,
            decoder.branches(vectors, size),
            text_guidance(sampling.guidance_scale),
            size,
            sampling.num_steps,
            generators,
            decoder.device,
        )
        return EditOutput(images, [""] * len(vectors))

    def _given(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Vector [B,D] and modality [B] of what each sample gives."""
        texts = [one or other for one, other in zip(batch["target_caption"], batch["instruction"], strict=True)]
        found, kinds = self.encoder.texts(texts), torch.full((len(texts),), TEXT, device=self.encoder.device)
        attached = self.encoder.attachments(batch)
        for row, names in enumerate(batch["attachment_kinds"]):
            slot = next((number for number, name in enumerate(names) if name), None)
            if slot is not None:
                found[row], kinds[row] = attached[row, slot], KINDS[names[slot]]
        return found, kinds


def save_any_to_image(editor: AnyToImageEditor, folder: Path) -> str:
    """Write an editor's parts and editor.yaml; see `TrainingModule.export`."""
    save_decoder(editor.decoder, folder)
    save_encoder(editor.encoder, folder)
    if editor.prior is not None:
        save_parts(folder, {"prior": editor.prior})
    forget_origins(folder)
    own = None if editor.prior is None else "."
    write_editor(folder, f"{__name__}.open_editor", prior=own, sampling=asdict(editor.sampling))
    return ABOUT


def open_editor(path: str, prior: str | None = None, sampling: AnySampling | None = None) -> AnyToImageEditor:
    """What a folder of `save_any_to_image` or a run of `DecoderModule` draws with, frozen.

    Args:
        path: the folder, the hub id of one, or a run.
        prior: folder or run with a prior; "." is the folder itself; None draws vectors as they are.
        sampling: how to draw.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """
    encoder = load_encoder(path)
    found = None if prior is None else load_prior(path if prior == "." else prior)
    return AnyToImageEditor(encoder, load_decoder(path, encoder.width), found, sampling)


open_editor.backbone_settings = {  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
    "path": DECODER_PARTS | IMAGEBIND_PARTS,
    "prior": {"prior": PRIOR},
}
