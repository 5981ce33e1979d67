"""What MMIG adds to its backbones, as one component of a diffusers pipeline: MMSMs, or another connector, and the
multimodal LLM's adapters.

`MMIGPipeline` saves and loads it like any model, as safetensors; the backbones stand beside it in their own folders.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from mmig.base.settings import instantiate
from mmig.methods.mmig.captioner import Captioner
from mmig.methods.mmig.llm.adapter_hooks import attention_width, llm_layers, vision_blocks
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.multimodal import MultimodalLLM, build_adapters
from mmig.methods.mmig.mmsm import MMSM
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.parts import token_width
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings


class Connectors(ModelMixin, ConfigMixin):
    """The modules between MMIG's backbones.

    It also remembers the multimodal LLM and the captioner that were joined from it: an LLM takes the adapters of one
    `MultimodalLLM` only, so that all pipelines of one set of components share it.

    Args:
        text_dim: width D of the LLM's states.
        feature_dims: channels of the feature map at each location of an MMSM (dots of its path written as dashes).
        dim, heads, start: of the MMSMs.
        multimodal: fields of `MultimodalConfig`.
        llm_layers: layers of the LLM.
        vision_blocks, vision_dim: of CLIP's tower; 0 blocks for none.
        connector_settings: `class_path` and `init_args` of `ConnectorSettings`, where tokens are made of the states.
        token_dim: width of these tokens.

    Attributes:
        mmsm: ModuleDict, one MMSM a location.
        connector: what makes the tokens, or None.
        adapters: as `MultimodalLLM.adapters`.
    """

    @register_to_config
    def __init__(
        self,
        text_dim: int,
        feature_dims: dict[str, int],
        dim: int = 768,
        heads: int = 8,
        multimodal: dict[str, Any] | None = None,
        llm_layers: int = 32,
        vision_blocks: int = 0,
        vision_dim: int = 0,
        connector_settings: dict[str, Any] | None = None,
        token_dim: int = 0,
        start: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = dim, heads, start
        self.mmsm = nn.ModuleDict({name: MMSM(text_dim, width, *sizes) for name, width in feature_dims.items()})
        settings = connector_settings and instantiate(ConnectorSettings, connector_settings)
        self.connector = settings and settings.build(text_dim, token_dim)
        config = MultimodalConfig(**(multimodal or {}))
        self.adapters = build_adapters(config, llm_layers, text_dim, vision_blocks, vision_dim)
        self._joined: dict[str, Any] = {}  # in a dict: what is joined is no part of this module

    @classmethod
    def of(cls, model: MMIG) -> "Connectors":
        """The connectors of a model, sharing its modules."""
        adapters, mmsm, connector = model.mllm.adapters, dict(model.mmsm.items()), model.connector
        vision = _of_vision(adapters)
        sizes = _sizes(mmsm)
        with torch.device("meta"):  # only to be replaced
            connectors = cls(
                text_dim=adapters["modality"].embedding_dim,
                feature_dims={name: module.feature_dim for name, module in mmsm.items()},
                **sizes,
                multimodal=asdict(model.mllm.config),
                llm_layers=len(adapters["llm"]),
                vision_blocks=len(vision),
                vision_dim=vision[0].dim if len(vision) else 0,
                connector_settings=connector and connector.settings.as_section(),
                token_dim=token_width(model.unet) if connector else 0,
            )
        connectors.mmsm, connectors.connector, connectors.adapters = model.mmsm, connector, adapters
        connectors._joined = {"llm": model.mllm, "captioner": model.captioner}
        return connectors

    def join_llm(self, llm: Any | None, tokenizer: Any | None, vision: Any | None) -> MultimodalLLM | None:
        """The multimodal LLM of these parts with the adapters in here; None without an LLM.

        Raises:
            ValueError: parts of other sizes than the adapters, or others than those that were joined before.
        """
        if llm is None:
            return None
        joined = self._joined.get("llm")
        if joined is None:
            joined = self._joined["llm"] = self._join(llm, tokenizer, vision)
        if joined.llm is not llm or joined.vision is not vision:
            raise ValueError(
                "connectors: their adapters belong to another LLM or vision tower already; load the connectors "
                "anew for these"
            )
        return joined

    def _join(self, llm: Any, tokenizer: Any, vision: Any | None) -> MultimodalLLM:
        if tokenizer is None:
            raise ValueError("MMIGPipeline: an LLM needs its tokenizer; give llm_tokenizer")
        self._check_fit(llm, vision)
        with torch.device("meta"):  # its own fresh adapters are replaced by those in here
            joined = MultimodalLLM(llm, tokenizer, vision, MultimodalConfig(**(self.config.multimodal or {})))
        joined.adapters.load_state_dict(self.adapters.state_dict(), assign=True)
        self.adapters = joined.adapters.requires_grad_(False).train(self.training)
        return joined

    def _check_fit(self, llm: Any, vision: Any | None) -> None:
        layers, blocks = llm_layers(llm), () if vision is None else vision_blocks(vision)
        found = (len(layers), attention_width(layers), len(blocks), attention_width(blocks) if blocks else 0)
        own = _of_vision(self.adapters)
        expected = (
            len(self.adapters["llm"]),
            self.adapters["modality"].embedding_dim,
            len(own),
            own[0].dim if len(own) else 0,
        )
        if expected != found:
            raise ValueError(
                f"connectors: their adapters are for {_described(*expected)}, the pipeline has {_described(*found)}; "
                "give the LLM and the vision tower that they were trained with"
            )

    def join_captioner(self, model: Any | None, processor: Any | None) -> Captioner | None:
        """The captioner of a BLIP-2 and its processor; None without a BLIP-2.

        Raises:
            ValueError: no processor, or one that does not fit.
        """
        if model is None:
            return None
        joined = self._joined.get("captioner")
        if joined is None or joined.model is not model:
            if processor is None:
                raise ValueError("MMIGPipeline: a captioner needs its processor; give captioner_processor")
            joined = self._joined["captioner"] = Captioner(model, processor)
        return joined


def _of_vision(adapters: nn.ModuleDict) -> Sequence[Any]:
    return dict(adapters.items()).get("vision", ())


def _sizes(mmsm: Mapping[str, Any]) -> dict[str, Any]:
    """Common width, heads and start of the MMSMs; nothing where there is none."""
    for module in mmsm.values():
        attention = module.cross_attention
        return {"dim": attention.query.in_features, "heads": attention.heads, "start": module.start}
    return {}


def _described(layers: int, width: int, blocks: int, vision_width: int) -> str:
    vision = f"a vision tower of {blocks} blocks and width {vision_width}" if blocks else "no vision tower"
    return f"an LLM of {layers} layers and width {width} and {vision}"
