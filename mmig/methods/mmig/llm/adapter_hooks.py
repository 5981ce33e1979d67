"""Puts MM-Adapters before q, k and v of every layer of a transformers model, by hooks on the attention modules.

The backbone's modules and the names of its weights stay as they are; the adapters live where their owner keeps them.

Mixture weights travel as a keyword argument, `adapter_routing`, which transformers hands from the model through its
layers to the attention. So they belong to one forward, also where gradient checkpointing computes a layer again in the
backward pass, long after other forwards have run: a context around the forward would have ended by then.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mmig.methods.mmig.llm.adapters import MMAdapter

ROUTING = "adapter_routing"
"""Name of the keyword argument: Tensor [B,layers,2] with the weights to use; or a dict to fill with the weights [B,2]
by layer, each routed by its own first token; without it the model runs bare."""


PROJECTIONS = ("q_proj", "k_proj", "v_proj")
"""What an adapter's output feeds."""


class AttentionInputHook:
    """Forward pre-hook of an attention module that adapts its input. An object, so that a deep copy takes its adapter.

    Args:
        adapter: of this layer.
        layer: its number.
        by_first_token: always routed by the sample's own first token (CLIP's class token); reads no argument then.
    """

    def __init__(self, adapter: MMAdapter, layer: int, by_first_token: bool) -> None:
        self.adapter, self.layer, self.by_first_token = adapter, layer, by_first_token

    def __call__(self, _module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Replace the hidden states among the arguments."""
        routing = kwargs.pop(ROUTING, None)
        hidden = args[0] if args else kwargs["hidden_states"]
        if self.by_first_token or isinstance(routing, dict):
            weights = self.adapter.weights(hidden[:, 0])
            if isinstance(routing, dict):
                routing[self.layer] = weights
        elif routing is None:
            return args, kwargs
        else:
            weights = routing[:, self.layer]
        adapted = self.adapter(hidden, weights)
        return ((adapted, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": adapted})


def attach(adapters: nn.ModuleList, layers: nn.ModuleList, *, by_first_token: bool = False) -> None:
    """Hook one adapter to the attention of each layer.

    Raises:
        ValueError: the layers have adapters already: two owners of one model would disturb each other.
    """
    hooks = [hook for layer in layers for hook in layer.self_attn._forward_pre_hooks.values()]
    if any(isinstance(hook, AttentionInputHook) for hook in hooks):
        raise ValueError("this model has adapters already; share the MultimodalLLM that it belongs to, or load it anew")
    for number, (adapter, layer) in enumerate(zip(adapters, layers, strict=True)):
        hook = AttentionInputHook(adapter, number, by_first_token)
        layer.self_attn.register_forward_pre_hook(hook, with_kwargs=True)


@contextmanager
def routed(decoder: nn.Module, weights: Tensor) -> Iterator[None]:
    """Give every call of the decoder the mixture weights [B,layers,2].

    For transformers' `generate`, which refuses arguments unknown to it; not for training (see above).
    """

    def add(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        return args, kwargs | {ROUTING: weights}

    handle = decoder.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def llm_layers(llm: Any) -> nn.ModuleList:
    """Layers of a LLaMA-shaped causal language model of transformers (LLaMA, Vicuna, Llama 3, Mistral, Qwen).

    Raises:
        ValueError: layers without self_attn.q_proj, k_proj, v_proj, or that hand no further arguments on.
    """
    layers = getattr(llm.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or not all(_has_projections(layer) for layer in layers):
        raise ValueError(
            f"llm: expected a LLaMA-shaped model, whose layers have self_attn.q_proj, k_proj and v_proj; "
            f"found {type(llm).__name__}"
        )
    for module in (layers[0], layers[0].self_attn):
        kinds = {parameter.kind for parameter in inspect.signature(module.forward).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            raise ValueError(
                f"llm: {type(module).__name__} takes no further keyword arguments, by which the adapters' weights "
                "travel; use the model's class of transformers itself"
            )
    return layers


def vision_blocks(vision: nn.Module) -> nn.ModuleList:
    """Blocks of a CLIP vision tower of transformers, with or without its projection.

    Raises:
        ValueError: no list of blocks with layer_norm1 and self_attn.
    """
    for module in vision.modules():
        is_list = isinstance(module, nn.ModuleList) and len(module) > 0
        if is_list and all(hasattr(block, "layer_norm1") and _has_projections(block) for block in module):
            return module
    raise ValueError(f"vision: expected a CLIPVisionModel of transformers, found {type(vision).__name__}")


def attention_width(layers: nn.ModuleList) -> int:
    """Width of what enters q, k and v."""
    return layers[0].self_attn.q_proj.in_features


def _has_projections(layer: nn.Module) -> bool:
    attention = getattr(layer, "self_attn", None)
    return all(hasattr(attention, name) for name in PROJECTIONS)


def stacked_weights(adapters: nn.ModuleList, routing: Tensor) -> Tensor:
    """Mixture weights of every layer for the same routing vectors: [B,dim] -> float32 [B,layers,2]."""
    return torch.stack([adapter.weights(routing) for adapter in adapters], dim=1)
