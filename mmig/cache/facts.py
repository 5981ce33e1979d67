"""What cached features depend on, as facts that can be compared: fingerprints of backbones, templates, sizes."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmig.methods.mmig.llm.multimodal import MultimodalLLM

FRESH = "fresh"
"""Adapters that change nothing yet."""
_LLM = (
    *("llm", "llm_tokenizer", "adapters", "multimodal", "prompt_template", "image_prompt_template"),
    *("max_response_tokens", "clip_vision", "dtype"),
)
DEPENDS: dict[str, tuple[str, ...]] = {
    "latents": ("vae", "dtype"),
    "text": ("text_encoder", "tokenizer", "max_text_chunks", "dtype"),
    "llm.states": _LLM,
    "llm.visual_tokens": ("clip_vision", "adapters", "multimodal", "dtype"),
}
"""Facts that each kind of feature depends on; a kind is the beginning of a feature's name."""


class StaleFeaturesError(ValueError):
    """Cached features that other models made; one line names both fingerprints."""


def backbone_facts(described: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Fingerprint of each backbone, from `StoredModule.describe_backbones`."""
    return {name: entry["fingerprint"] for name, entry in described.items()}


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


def check(name: str, found: Sequence[Mapping[str, str] | None], expected: Mapping[str, str]) -> None:
    """Compare the facts of a batch's samples with those of the models in training.

    Args:
        name: of the feature that is to be read; only what it depends on counts.
        found: facts of each sample; None for samples that could not be read.
        expected: of the models.

    Raises:
        StaleFeaturesError: they differ.
    """
    depends = next(facts for kind, facts in DEPENDS.items() if name.startswith(kind))
    for facts in found:
        for fact in depends:
            if facts is not None and facts.get(fact) != expected.get(fact):
                raise StaleFeaturesError(
                    f"cached feature {name!r} is stale: computed with {fact} {_short(facts.get(fact))}, this run has "
                    f"{_short(expected.get(fact))}; write the cache anew with `python -m mmig.run.cache`, or train "
                    "without data.init_args.features"
                )


def _short(fact: str | None) -> str:
    if fact is None:
        return "none"
    return fact[:12] if len(fact) == 64 and set(fact) <= set("0123456789abcdef") else repr(fact)
