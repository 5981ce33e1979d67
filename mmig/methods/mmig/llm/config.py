"""Sizes and readings of the multimodal LLM."""

from dataclasses import dataclass
from typing import Literal

from mmig.language.sequences import IMAGE_PROMPT_TEMPLATE, PROMPT_TEMPLATE
from mmig.methods.mmig.llm.visual_tokens import ImageStatistics


@dataclass
class MultimodalConfig:
    """Sizes and readings of the multimodal LLM; the defaults are the published 7B model's.

    Attributes:
        rank, groups, temperature, scale, dropout: of the adapters (eq 6); the 13B model has temperature 5.
        route_from: "embedding" routes a layer by the modality's embedding t_m (eq 6 as printed); "hidden" by the state
            that t_m has at that layer, as the reference implementation does.
        num_visual_tokens: depths at which CLIP's class token is taken.
        projector_dim: inner width of the visual projector.
        image_statistics: normalisation of the images.
        max_response_tokens: longest response, in tokens of the LLM.
        prompt_template: what the LLM reads before the response of a text-only sample.
        image_prompt_template: the same for a text-image sample.
    """

    rank: int = 8
    groups: int = 2
    temperature: float = 10.0
    scale: float = 1.0
    dropout: float = 0.1
    route_from: Literal["embedding", "hidden"] = "embedding"
    num_visual_tokens: int = 6
    projector_dim: int = 128
    image_statistics: ImageStatistics = "clip"
    max_response_tokens: int = 128
    prompt_template: str = PROMPT_TEMPLATE
    image_prompt_template: str = IMAGE_PROMPT_TEMPLATE
