"""Low-rank updates of frozen weights (Hu et al. 2021, LoRA), put in and merged by peft.

A layer's weight W becomes W + (alpha / rank) B A. peft puts a layer of its own in the place of each chosen one;
blocks, attention modules and their paths stay, so hooks on them (`mmig.diffusion.injection`,
`mmig.diffusion.attention`, adapters) go on working.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

BASE = ".base_layer"
"""What peft puts into the name of a weight that got an update."""


class LoRAError(ValueError):
    """Settings of low-rank updates that do not fit the model; one line says what does."""


@dataclass
class LoRAConfig:
    """Sizes and places of the low-rank updates of one model.

    Attributes:
        rank: r, columns of B and rows of A; 0 puts none in, the model stays frozen as it is.
        alpha: the update counts alpha / rank times; None takes the rank, so that it counts once.
        dropout: on the update's input.
        targets: layers that get one, by the end of their module path ("attn2.to_q", "conv1"); None takes the usual ones
            of the model.
    """

    rank: int = 16
    alpha: float | None = None
    dropout: float = 0.0
    targets: list[str] | None = None


UNET_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
"""All attention of a diffusers UNet."""
LLM_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
"""All attention of a LLaMA-shaped language model."""


def add_lora(model: nn.Module, config: LoRAConfig, usual_targets: Sequence[str], key: str) -> None:
    """Put fresh updates, float32 and trainable, into a frozen model; they change nothing until they are trained.

    Args:
        model: changed in place.
        config: with a rank of at least 1.
        usual_targets: taken where the config names none.
        key: where the config stands in the settings, for messages.

    Raises:
        LoRAError: a size out of range, or a target that the model does not have.
    """
    from peft import LoraConfig, inject_adapter_in_model

    if config.rank < 1 or not 0 <= config.dropout < 1:
        raise LoRAError(f"{key}: expected rank >= 1 and dropout in [0, 1), found {config.rank} and {config.dropout}")
    targets = list(usual_targets if config.targets is None else config.targets)
    if not targets:
        raise LoRAError(f"{key}.targets: expected at least one layer, found none; leave it out, or set rank to 0")
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for target in targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):
            raise LoRAError(
                f"{key}.targets: no layer of {type(model).__name__} ends in {target!r}; expected ends of paths such as "
                f"{', '.join(names[:: max(1, len(names) // 4)][:4])}"
            )
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=config.rank if config.alpha is None else config.alpha,
        lora_dropout=config.dropout,
        target_modules=targets,
    )
    inject_adapter_in_model(settings, model)


def merge_lora(model: nn.Module) -> None:
    """Add every update to its weight and put the plain layers back, in place; a model without updates stays as it is.

    The model computes the same up to rounding in the dtype of its weights.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in [found for found in model.named_modules() if isinstance(found[1], LoraLayer)]:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())


def as_named_in(own: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same weights under the names that a module has for them: with `BASE` where its layer has an update, else not.

    Args:
        own: state of the module.
        weights: of another run, whose layers may have updates where these have none; names unknown to both stay.
    """
    names = {name.replace(BASE, ""): name for name in own}
    return {names.get(name.replace(BASE, ""), name): value for name, value in weights.items()}
