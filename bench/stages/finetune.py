"""`FineTune` at any size on the meta device, and the memory that it needs whatever the batch."""

from dataclasses import dataclass

from torch import nn

from bench.stages.build import build_stage
from bench.stages.sizes import Sizes
from mmig.methods.mmig.stages.finetune import FineTune, FineTuneDenoiser, Updates
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.lora import BASE, LoRAConfig

NF4_BYTES = 0.5 + (1 + 4 / 256) / 64
"""Of a weight in 4 bits, with an 8-bit scale for 64 of them and a 32-bit one for 256 scales (Dettmers et al. 2023)."""
MOMENTS = {"adamw": 8.0, "adamw_8bit": 2.0 * (1 + 4 / 256)}
"""Bytes of both moments of a trained weight; in 8 bits with a scale of 32 bits for 256 of them."""


@dataclass(frozen=True)
class Variant:
    """A way to fine-tune: its class and updates, the precision of the language model, the optimiser."""

    name: str
    kind: type[FineTune]
    updates: Updates
    llm: str
    optimizer: str


VARIANTS = (
    Variant("lora.yaml: LLM in 4 bits", FineTune, Updates(llm=LoRAConfig(16)), "4bit", "adamw_8bit"),
    Variant("the same with fused AdamW", FineTune, Updates(llm=LoRAConfig(16)), "4bit", "adamw"),
    Variant("lora_cached.yaml: states cached", FineTuneDenoiser, Updates(), "bfloat16", "adamw"),
    Variant("LLM in bfloat16", FineTune, Updates(llm=LoRAConfig(16)), "bfloat16", "adamw"),
)


def build_finetune(variant: Variant, sizes: Sizes, checkpointing: bool) -> MMIGStage:
    """The stage of a variant on the meta device, its updates put in as in training."""

    class Updated(variant.kind):
        _updates = variant.updates

    return build_stage(Updated, sizes, "meta", checkpointing=checkpointing)


def fixed_bytes(stage: MMIGStage, variant: Variant) -> int:
    """Bytes of weights, gradients, moments and averaged weights."""
    total = 0.0
    for name, parameter in stage.named_parameters():
        if parameter.requires_grad:  # float32: weight, gradient, average; and the moments
            total += parameter.numel() * (4 + 4 + 4 + MOMENTS[variant.optimizer])
        elif name.startswith("mmig.mllm.llm."):
            total += _llm_bytes(stage, name, parameter, variant.llm)
        else:
            total += parameter.nbytes
    return int(total)


def _llm_bytes(stage: MMIGStage, name: str, parameter: nn.Parameter, precision: str) -> float:
    """Bytes of a weight of the language model; embeddings, head and norms stay whole."""
    layer = stage.get_submodule(name.rpartition(".")[0].removesuffix(BASE))
    quantised = precision == "4bit" and ".layers." in name and hasattr(layer, "in_features")
    return parameter.numel() * NF4_BYTES if quantised else parameter.nbytes
