"""The parts that a published model folder may hold: where each lies and which files make it complete."""

from dataclasses import dataclass, replace


class BackboneError(ValueError):
    """A pretrained part is missing, broken or does not fit; the message names the file and what was expected."""


@dataclass(frozen=True)
class Part:
    """One loadable part of a published model.

    Attributes:
        name: what errors and configs call it.
        subfolder: its place below a pipeline's root, as published; "" where the model is the root.
        files: alternative sets of files; one set must be there for the folder to be this part's own.
        has_weights: whether a weights file must lie beside them.
        kind_key, kinds: what config.json must say; () where any will do.
        other_subfolder: where else below a root it may lie; "" where nowhere.
        beside: what must lie in a root for the part to be looked for there: it is no part of other pipelines. "" for a
            part of every pipeline.
    """

    name: str
    subfolder: str
    files: tuple[tuple[str, ...], ...] = (("config.json",),)
    has_weights: bool = True
    kind_key: str = "model_type"
    kinds: tuple[str, ...] = ()
    other_subfolder: str = ""
    beside: str = ""

    @property
    def subfolders(self) -> tuple[str, ...]:
        """Where below a root it may lie."""
        return tuple(name for name in (self.subfolder, self.other_subfolder) if name)

    def marks(self) -> str:
        """The alternative file sets in words."""
        return " or ".join(" + ".join(names) for names in self.files)


_TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",))

VAE = Part("vae", "vae", kind_key="_class_name", kinds=("AutoencoderKL",))
UNET = Part("unet", "unet", kind_key="_class_name", kinds=("UNet2DConditionModel",))
TEXT_ENCODER = Part("text_encoder", "text_encoder", kinds=("clip_text_model", "clip"))
TOKENIZER = Part("tokenizer", "tokenizer", _TOKENIZER_FILES, has_weights=False)
TEXT_ENCODER_2 = Part("text_encoder_2", "text_encoder_2", kinds=("clip_text_model",))
TOKENIZER_2 = Part("tokenizer_2", "tokenizer_2", _TOKENIZER_FILES, has_weights=False)
SDXL_TEXT_ENCODER = replace(TEXT_ENCODER_2, beside="unet")
SDXL_TOKENIZER = replace(TOKENIZER_2, beside="unet")
DENOISER = Part(
    "unet",
    "unet",
    kind_key="_class_name",
    kinds=("UNet2DConditionModel", "FluxTransformer2DModel"),
    other_subfolder="transformer",
)
T5_ENCODER = Part("text_encoder_2", "text_encoder_2", kinds=("t5",), beside="transformer")
T5_TOKENIZER = Part("tokenizer_2", "tokenizer_2", _TOKENIZER_FILES, has_weights=False, beside="transformer")
SCHEDULER = Part("scheduler", "scheduler", (("scheduler_config.json",),), has_weights=False)
LLM = Part("llm", "")
LLM_TOKENIZER = Part("llm_tokenizer", "", _TOKENIZER_FILES, has_weights=False)
MLLM = Part("mllm", "mllm")
MLLM_TOKENIZER = Part("mllm_tokenizer", "mllm", _TOKENIZER_FILES, has_weights=False)
CLIP_VISION = Part("clip_vision", "image_encoder", kinds=("clip_vision_model", "clip"))
BLIP2 = Part("blip2", "", kinds=("blip-2",))
BLIP2_PROCESSOR = Part(
    "blip2_processor", "", (("processor_config.json",), ("preprocessor_config.json",)), has_weights=False
)
OPEN_CLIP = Part("open_clip", "", (("open_clip_config.json",),))
IMAGE_MODEL = Part("image_model", "", (("config.json", "preprocessor_config.json"),))
IMAGEBIND = Part("imagebind", "imagebind", kinds=("imagebind",))
IMAGEBIND_TOKENIZER = Part("imagebind_tokenizer", "imagebind", _TOKENIZER_FILES, has_weights=False)

PIPELINE_PARTS = (VAE, UNET, TEXT_ENCODER, TOKENIZER, SCHEDULER)
PIPELINE = {part.name: part for part in PIPELINE_PARTS}
"""What a pipeline's root holds, by name."""
UNET_PIPELINE = PIPELINE | {part.name: part for part in (SDXL_TEXT_ENCODER, SDXL_TOKENIZER)}
"""What the root of a pipeline holds whose denoiser is a UNet, Stable Diffusion's or SDXL's with two text encoders."""
DENOISER_PIPELINE = PIPELINE | {part.name: part for part in (DENOISER, T5_ENCODER, T5_TOKENIZER)}
"""What the root of a pipeline holds whose denoiser is a UNet, or a FLUX transformer with its second text encoder."""
LLM_PARTS = {part.name: part for part in (LLM, LLM_TOKENIZER)}
MLLM_PARTS = {part.name: part for part in (MLLM, MLLM_TOKENIZER)}
BLIP2_PARTS = {part.name: part for part in (BLIP2, BLIP2_PROCESSOR)}
IMAGEBIND_PARTS = {part.name: part for part in (IMAGEBIND, IMAGEBIND_TOKENIZER)}
PARTS = {
    part.name: part
    for part in (
        *PIPELINE_PARTS,
        TEXT_ENCODER_2,
        TOKENIZER_2,
        LLM,
        LLM_TOKENIZER,
        MLLM,
        MLLM_TOKENIZER,
        CLIP_VISION,
        BLIP2,
        BLIP2_PROCESSOR,
        OPEN_CLIP,
        IMAGE_MODEL,
        IMAGEBIND,
        IMAGEBIND_TOKENIZER,
    )
}
