"""What `mmig.methods.mmig.model.MMIG` makes of a batch: the denoiser's problem, and the losses. Values only."""

from typing import Literal, NamedTuple

from torch import Tensor

from mmig.diffusion.concepts import ConceptTokens
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.injection import Injection

SourceConditioning = Literal["img2img", "concat"]
"""How the source image reaches the denoiser (eq 3): sampling starts from its noised latents, or they are appended to
the noisy latents on the channel axis (InstructPix2Pix)."""


class Losses(NamedTuple):
    """What a batch's forwards give.

    Attributes:
        values: loss terms by name, [B] each.
        injection: what the mutual support modules computed.
        concepts: where the attention losses looked; None without them.
    """

    values: dict[str, Tensor]
    injection: Injection
    concepts: ConceptTokens | None


class DenoisingProblem(NamedTuple):
    """What a denoiser gets and should answer.

    Attributes:
        clean, noise: latents of the target and the noise added to them, [B,c,h,w].
        noisy: x_t, [B,c,h,w].
        timesteps: [B].
        target: what is to be predicted, [B,c,h,w].
        texts: responses, "" where the text was dropped.
        condition: text and source image, what was dropped left out.
        has_text: bool [B], False where the text was dropped.
        caption_weight: of each sample's L_BLIP2, float32 [B].
    """

    clean: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    target: Tensor
    texts: list[str]
    condition: Conditioning
    has_text: Tensor
    caption_weight: Tensor
