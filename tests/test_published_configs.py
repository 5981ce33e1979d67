"""configs/mmig are the published sizes: models, MMSM, attention maps, adapters."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.multimodal import build_adapters
from mmig.methods.mmig.objective import ObjectiveConfig

ROOT = Path(__file__).resolve().parent.parent


def settings(number: int) -> dict[str, Any]:
    return yaml.safe_load((ROOT / f"configs/mmig/stage{number}.yaml").read_text(encoding="utf-8"))["model"]["init_args"]


@pytest.mark.parametrize("number", range(1, 6))
def test_a_stage_is_of_the_published_sizes(number: int) -> None:
    found = settings(number)
    expected = {
        "diffusion": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "llm": "huggyllama/llama-7b",
        "vision": "openai/clip-vit-large-patch14" if number > 1 else None,
        "captioner": "Salesforce/blip2-opt-2.7b" if number == 5 else None,
        "dtype": "bfloat16",
        "gradient_checkpointing": True,
    }
    assert found["backbones"] == {name: value for name, value in expected.items() if value is not None}
    assert found["mmsm"] == {"dim": 768, "heads": 8, "locations": ["mid_block"]}
    objective = ObjectiveConfig(**found.get("objective", {}))
    assert tuple(objective.attention_resolution) == (16, 16)
    assert (objective.alpha, objective.step_gap, objective.layered_norm) == (0.7, 20, "squared")
    assert objective.text_only == (0.1 if number in (2, 4, 5) else 0.0)  # where the modality embedding trains
    assert found.get("profile", "paper") == "paper" and "loss_weights" not in found
    with torch.device("meta"):
        adapters = build_adapters(MultimodalConfig(**found.get("multimodal", {})), 32, 4096, 24, 1024)
    assert sum(parameter.numel() for parameter in adapters.parameters()) == 3_781_296
