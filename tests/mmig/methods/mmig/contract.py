"""MMIG as the contract sees it: the stage with most of its losses, and fine-tuning by low-rank updates."""

from typing import Any

from tests.mmig.methods.contract import Case
from tests.tiny_fixtures import TinyBackbones


def arguments(backbones: TinyBackbones) -> dict[str, Any]:
    """Of every stage."""
    return {
        "optimizer": {"lr": 1.0e-3, "groups": {"mmig.mmsm": {"lr": 3.0e-3}}},
        "backbones": {
            "diffusion": str(backbones.stable_diffusion),
            "unet": str(backbones.instruct_pix2pix),
            "llm": str(backbones.llama),
            "vision": str(backbones.clip_vision),
        },
        "mmsm": {"dim": 16, "heads": 2},
        "multimodal": {"max_response_tokens": 6, "dropout": 0.0},
        "source_conditioning": "concat",
        "sampling": {"num_steps": 2, "guidance_scale": 3.0, "response": "generated"},
    }


def stage4(backbones: TinyBackbones) -> dict[str, Any]:
    """Everything but the captioner."""
    return {"class_path": "mmig.methods.mmig.stages.paper.Stage4", "init_args": arguments(backbones)}


def finetune(backbones: TinyBackbones) -> dict[str, Any]:
    """Frozen language model, so that its states may be cached."""
    updates = {"lora": {"unet": {"rank": 2}}}
    return {
        "class_path": "mmig.methods.mmig.stages.finetune.FineTuneDenoiser",
        "init_args": arguments(backbones) | updates,
    }


CASES = {"stage4": Case(stage4), "finetune": Case(finetune, repeats=True)}
