"""What a call of MMIG's pipeline returns, and in which forms."""

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from mmig.editor import ConceptAttention


@dataclass
class MMIGPipelineOutput(BaseOutput):
    """What `MMIGPipeline` returns: (I_new, d_new) of eq 5 and what led to them, one entry an image.

    Attributes:
        images: PIL images in the sizes of the given ones; or float32 [B,3,H,W] in [-1,1].
        descriptions: the responses z_d that were used.
        captions: d_new, captions of the new images (eq 4); None without a captioner.
        attention: where the denoiser looked for the concepts; None unless asked for.
    """

    images: list[Image.Image] | Tensor
    descriptions: list[str]
    captions: list[str] | None = None
    attention: ConceptAttention | None = None


def check_options(output_type: str, tensors: Sequence[str]) -> None:
    """Raise ValueError for a form of the images, or tensors for a callback, that the pipeline does not give."""
    if output_type not in ("pil", "pt"):
        raise ValueError(f"output_type: expected 'pil' or 'pt', found {output_type!r}")
    if list(tensors) not in ([], ["latents"]):
        raise ValueError(f"callback_on_step_end_tensor_inputs: only 'latents' can be given, found {tensors}")
