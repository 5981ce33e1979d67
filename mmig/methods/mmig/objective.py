"""The terms of MMIG's total loss (eq 22), and how they are read where the paper leaves it open."""

from dataclasses import dataclass, field
from typing import Literal, get_args

from mmig.diffusion.process import Levels
from mmig.methods.mmig.image_path import ImagePathConfig

TERMS = ("sdm", "as", "ar", "fg", "bg", "mmt", "blip2", "mmsm")
"""L_Total (eq 22): L_SDM (14), L_AS (19), L_AR (20), L_fg (17), L_bg (18), L_MMT (7, 8), L_BLIP2, L_MMSM (13). The
first five are L_DEM (21)."""


DenoiserText = Literal["response", "instruction", "none"]
"""What the denoiser's text encoder reads: the response z_d (eq 2, 3), the instruction w, or the empty text."""
SourceConditioning = Literal["img2img", "concat", "sequence"]
"""How the source image reaches the denoiser (eq 3): sampling starts from its noised latents, or they are appended to
the noisy latents on the channel axis (InstructPix2Pix), or behind them as further tokens (FLUX.1 Kontext)."""


@dataclass
class ObjectiveConfig:
    """How the loss terms are read where the paper leaves it open.

    Attributes:
        condition_drop: d; a part d of the samples loses the text, one more d text and source, one more d the source
            (Brooks et al. 2023), for guidance. Only for stages in which the denoiser trains. Without the text a sample
            counts in L_SDM and L_MMT alone.
        text_only: share of the samples whose source the multimodal LLM does not see, as if they had none: the text row
            of the modality embedding trains on them. The denoiser sees it. Nothing without a vision tower.
        attention_resolution: (h, w) of the attention maps of eq 19 and 20; 16x16 is a 32nd of 512 pixels.
        step_gap: timesteps between the two noise levels of eq 20: one step of a sampler with 50. Samples so noisy that
            the noisier one does not exist count nothing in L_AR.
        region_threshold: B_t is where a map exceeds this part of its maximum (`binarize`).
        alpha: weight of the object in eq 16.
        layered_norm: of eq 17 and 18 (`masked_noise_loss`).
        image_path: which predicted images BLIP-2 sees.
        max_text_chunks: chunks of 75 tokens that are read of a text; more are cut. FLUX reads one.
        noise_levels: how flow matching draws noise levels (`mmig.diffusion.process.Levels`).
        denoiser_text: which text the denoiser's own text encoder reads, in training and when editing: "response" is the
            paper's. With "instruction" or "none" the response reaches the denoiser through the connector alone; the
            concepts of eq 19 and 20 are then looked for in what is read. Eq 17 and 18 keep the phrases of eq 16.
    """

    condition_drop: float = 0.0
    text_only: float = 0.0
    attention_resolution: tuple[int, int] = (16, 16)
    step_gap: int = 20
    region_threshold: float = 0.5
    alpha: float = 0.7
    layered_norm: Literal["squared", "l2"] = "squared"
    image_path: ImagePathConfig = field(default_factory=ImagePathConfig)
    max_text_chunks: int = 1
    noise_levels: Levels = "uniform"
    denoiser_text: DenoiserText = "response"

    def __post_init__(self) -> None:
        """Raise ValueError for a share out of range, or a text that is none."""
        if self.denoiser_text not in get_args(DenoiserText):
            known = ", ".join(get_args(DenoiserText))
            raise ValueError(f"objective.denoiser_text: expected one of {known}, found {self.denoiser_text!r}")
        if not 0 <= self.text_only <= 1:
            raise ValueError(f"objective.text_only must be in [0, 1], found {self.text_only}")

    def unread_text(self, replaced: bool) -> str:
        """The setting for which the denoiser reads no text; "" where it reads one.

        Args:
            replaced: whether a connector's tokens stand in the text's place.
        """
        if replaced:
            return "connector.place replace"
        return "objective.denoiser_text none" if self.denoiser_text == "none" else ""
