"""A stage of MMIG with random weights at any size, or on the meta device, and a batch for it.

The stage is wired by the repository's own code.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from PIL import Image
from torch import nn

from bench.stages.published import TINY, default_dtype
from bench.stages.sizes import Sizes
from datamodules.schema import Attachment, AttachmentSettings, Batch, collate
from mmig.backbones.diffusion import load_tokenizer
from mmig.backbones.llm import load_llm_tokenizer
from mmig.backbones.loading import prepare
from mmig.methods.mmig.captioner import Captioner
from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.mmsm import MMSM
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.parts import Parts
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage2, Stage3, Stage4, Stage5
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig

STAGES: dict[int, type[MMIGStage]] = dict(enumerate((Stage1, Stage2, Stage3, Stage4, Stage5), 1))


def build_stage(
    kind: type[MMIGStage],
    sizes: Sizes,
    device: torch.device | str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    checkpointing: bool = False,
) -> MMIGStage:
    """A stage around parts that are built with random weights, where its own constructor would load them.

    As in configs/mmig, stage 1 has no image tower, and only stage 5 has a captioner.

    Args:
        kind: the stage.
        sizes: of its parts.
        device: "meta" for counting.
        dtype: of frozen backbones; what trains is in float32.
        checkpointing: as `gradient_checkpointing` of the configuration.
    """

    class Built(kind):
        def __init__(self) -> None:
            TrainingModule.__init__(self, OptimizerConfig(), kind.profile_weights("paper"))
            parts = build_parts(kind, sizes, torch.device(device), dtype, checkpointing)
            with torch.device(device):
                self.mmig = MMIG(parts, "img2img", None, ObjectiveConfig(attention_resolution=sizes.maps))
            self._losses: Losses | None = None
            self._choose_trained(kind.trained_parts)

    return Built()


def build_parts(
    kind: type[MMIGStage], sizes: Sizes, device: torch.device, dtype: torch.dtype, checkpointing: bool
) -> Parts:
    """The parts of a stage with random weights; arguments as of `build_stage`."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

    def build(make: Callable[[], nn.Module], trained: bool = False, mixed: bool = False) -> nn.Module:
        """A part in its dtype; what is `mixed` trains in places, which its own class takes to float32."""
        with device, default_dtype(torch.float32 if trained and not mixed else dtype):
            return prepare(make(), frozen=not trained, gradient_checkpointing=checkpointing)

    dim, heads = sizes.mmsm
    with device:
        mmsm = MMSM(sizes.llm["hidden_size"], sizes.unet["block_out_channels"][-1], dim, heads)
    return Parts(
        **build_denoiser(sizes, device, dtype, trained="unet" in kind.trained_parts, checkpointing=checkpointing),
        llm=build(lambda: LlamaForCausalLM(LlamaConfig(**sizes.llm))),
        llm_tokenizer=load_llm_tokenizer(TINY / "llama"),
        mmsm=nn.ModuleDict({"mid_block": mmsm}),
        vision=build(lambda: CLIPVisionModel(CLIPVisionConfig(**sizes.vision))) if kind is not Stage1 else None,
        captioner=_build_captioner(build, sizes, "captioner" in kind.trained_parts)
        if "blip2" in kind.counted_losses
        else None,
    )


def build_denoiser(
    sizes: Sizes, device: torch.device, dtype: torch.dtype, *, trained: bool = False, checkpointing: bool = False
) -> dict[str, Any]:
    """A Stable Diffusion with random weights: unet, vae, text_encoder, tokenizer, scheduler.

    Args:
        sizes, device, checkpointing: as of `build_stage`.
        dtype: of what is frozen.
        trained: whether the UNet trains, in float32.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    def build(make: Callable[[], nn.Module], trained: bool = False) -> nn.Module:
        with device, default_dtype(torch.float32 if trained else dtype):
            return prepare(make(), frozen=not trained, gradient_checkpointing=checkpointing)

    return {
        "unet": build(lambda: UNet2DConditionModel(**sizes.unet), trained).to(memory_format=torch.channels_last),
        "vae": build(lambda: AutoencoderKL(**sizes.vae)).to(memory_format=torch.channels_last),
        "text_encoder": build(lambda: CLIPTextModel(CLIPTextConfig(**sizes.text))),
        "tokenizer": load_tokenizer(TINY / "stable-diffusion"),
        "scheduler": DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    }


def random_batch(
    size: int, sizes: Sizes, characters: int = 2160, attachments: AttachmentSettings | None = None
) -> Batch:
    """Samples with every field.

    Args:
        size: how many.
        sizes: gives the resolution.
        characters: of response and captions (instructions have 400 at most); by default more than any stage of MMIG
            reads of them, so that each step is the largest.
        attachments: gives each sample a picture and the longest sound, as far as these settings let it.
    """
    side = sizes.resolution
    half = Image.new("L", (side, side))
    half.paste(255, (0, 0, side // 2, side))
    text = ("a red circle and a blue square on a white background, " * 40)[:characters]
    samples = [
        {
            "key": f"sample{number}",
            "source": Image.effect_noise((side, side), 64).convert("RGB"),
            "target": Image.effect_noise((side, side), 64).convert("RGB"),
            "instruction": text[:400],
            "response": text,
            "source_caption": text,
            "target_caption": text,
            "object_phrase": "a red circle",
            "background_phrase": "a white background",
            "target_mask": half,
            "reference_mask": half,
            "concepts": [{"phrase": "red circle"}, {"phrase": "blue square"}],
            **({} if attachments is None else {"attachments": _attached(attachments)}),
        }
        for number in range(size)
    ]
    return collate(samples)


def _attached(settings: AttachmentSettings) -> list[Attachment]:
    """A picture and a sound as `collate` takes them."""
    side, length = settings.attachment_size, round(settings.audio_rate * settings.audio_seconds)
    tensors = {"image": torch.rand(3, side, side) * 2 - 1, "audio": torch.rand(length) * 2 - 1}
    entries = [{"kind": kind, "role": "reference", "word": None, "data": data} for kind, data in tensors.items()]
    return cast(list[Attachment], entries[: settings.max_attachments])


def _build_captioner(build: Callable[..., nn.Module], sizes: Sizes, trained: bool) -> Captioner:
    """BLIP-2 in the frozen dtype, its connector, where it trains, in float32 with dropout, as of `load_captioner`."""
    from transformers import (
        AutoTokenizer,
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        BlipImageProcessor,
    )

    config = Blip2Config(**sizes.captioner)
    side = config.vision_config.image_size
    processor = Blip2Processor(
        BlipImageProcessor(size={"height": side, "width": side}),
        AutoTokenizer.from_pretrained(TINY / "blip2"),
        num_query_tokens=config.num_query_tokens,
    )
    model = build(lambda: Blip2ForConditionalGeneration(config), trained, mixed=True)
    return Captioner(model, processor).set_trainable(trained)
