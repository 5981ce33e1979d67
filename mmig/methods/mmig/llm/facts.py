"""What cached e0 and visual tokens depend on, beside the backbones (`mmig.methods.mmig.features`)."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmig.methods.mmig.llm.multimodal import MultimodalLLM

FRESH = "fresh"
"""Adapters that change nothing yet."""


def multimodal_facts(mllm: MultimodalLLM) -> dict[str, str]:
    """What e0 and the visual tokens depend on beside the backbones."""
    config = mllm.config
    facts = {
        "adapters": adapters_fact(mllm),
        "prompt_template": config.prompt_template,
        "max_response_tokens": str(config.max_response_tokens),
    }
    if facts["adapters"] != FRESH:
        facts["multimodal"] = (
            f"{config.route_from}, temperature {config.temperature}, scale {config.scale}, "
            f"{config.num_visual_tokens} visual tokens, {config.image_statistics}"
        )
    if mllm.vision is not None:
        facts["image_prompt_template"] = config.image_prompt_template
    return facts


def adapters_fact(mllm: MultimodalLLM) -> str:
    """Digest of the adapters' weights; `FRESH` of a text-only LLM whose adapters have not been trained.

    Fresh adapters change nothing, whatever their random parts are; the projector of the visual tokens always counts.
    """
    parts: dict[str, Any] = dict(mllm.adapters.items())
    untrained = {name for name in ("llm", "vision") if name in parts and _changes_nothing(parts[name].state_dict())}
    if "llm" in untrained:
        untrained.add("modality")  # it only weighs the LLM's adapters
    state = {
        f"{name}.{key}": value
        for name, part in parts.items()
        if name not in untrained
        for key, value in part.state_dict().items()
    }
    return _digest(state) if state else FRESH


def _changes_nothing(state: Mapping[str, Tensor]) -> bool:
    return not any(bool(value.any()) for name, value in state.items() if ".ups." in name)


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}:{tuple(value.shape)}\n".encode() + value.numpy().tobytes())
    return digest.hexdigest()
