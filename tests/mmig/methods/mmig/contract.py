"""MMIG as the contract sees it: the stage with most of its losses, fine-tuning by low-rank updates, connectors in the
place of MMSM, and a denoiser that is a transformer: a tiny FLUX.1 Kontext in the published layout, and a fresh one.
"""

from typing import Any

from tests.mmig.methods.contract import Case
from tests.tiny_fixtures import TinyBackbones
from tests.tiny_flux import build_flux_kontext

CONNECTORS = "mmig.methods.mmig.token_connectors"


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


def kontext(backbones: TinyBackbones) -> dict[str, Any]:
    """A FLUX.1 Kontext that trains, with every loss of L_DEM."""
    folder = backbones.stable_diffusion.parent / "flux-kontext"
    if not folder.exists():
        build_flux_kontext(folder)
    parts = {"diffusion": str(folder), "llm": str(backbones.llama), "vision": str(backbones.clip_vision)}
    return {"class_path": "mmig.methods.mmig.stages.paper.Stage3", "init_args": _of_flux(backbones, parts)}


def fresh_transformer(backbones: TinyBackbones) -> dict[str, Any]:
    """A transformer from scratch, that reads CLIP alone."""
    size = {"num_layers": 2, "num_single_layers": 1, "attention_heads": 2, "head_dim": 32}
    parts = {"diffusion": str(backbones.stable_diffusion), "llm": str(backbones.llama), "unet": {**size, "shift": 0.5}}
    settings = _of_flux(backbones, parts)
    settings["objective"]["noise_levels"] = "logit_normal"
    return {"class_path": "mmig.methods.mmig.stages.paper.Stage3", "init_args": settings}


def _of_flux(backbones: TinyBackbones, parts: dict[str, Any]) -> dict[str, Any]:
    return arguments(backbones) | {
        "backbones": parts,
        "mmsm": {"dim": 16, "heads": 2, "locations": ["transformer_blocks.1"]},
        "source_conditioning": "sequence",
        "objective": {"attention_resolution": [8, 8], "condition_drop": 0.1},
    }


def refiner(backbones: TinyBackbones) -> dict[str, Any]:
    """The same stage with tokens behind those of the instruction."""
    connector = {"class_path": f"{CONNECTORS}.refiner.Refiner", "init_args": {"dim": 16, "heads": 2, "place": "append"}}
    changes = {
        "connector": connector,
        "mmsm": None,
        "optimizer": {"lr": 1.0e-3, "groups": {"mmig.connector": {"lr": 3.0e-3}}},
        "objective": {"denoiser_text": "instruction"},
        "loss_weights": {"mmt": 1.0, "sdm": 1.0, "as": 1.0e-3, "ar": 1.0e-3, "fg": 1.0, "bg": 1.0},
    }
    return {"class_path": "mmig.methods.mmig.stages.paper.Stage4", "init_args": arguments(backbones) | changes}


def queries(backbones: TinyBackbones) -> dict[str, Any]:
    """Tokens in place of a text that the denoiser does not read, which alone train."""
    section = {"class_path": f"{CONNECTORS}.queries.LearnedQueries", "init_args": {"number": 4, "dim": 16, "heads": 2}}
    changes = {
        "connector": section,
        "mmsm": None,
        "optimizer": {"lr": 1.0e-3},
        "objective": {"denoiser_text": "none"},
        "loss_weights": {"sdm": 1.0},
    }
    return {"class_path": "mmig.methods.mmig.stages.paper.Stage1", "init_args": arguments(backbones) | changes}


def started(backbones: TinyBackbones) -> dict[str, Any]:
    """The first stage with two MMSMs whose size is measured before the first step."""
    changes = {
        "mmsm": {"dim": 16, "heads": 2, "locations": ["mid_block", "up_blocks.0"], "start": 0.5},
        "loss_weights": {"sdm": 1.0, "mmsm": 0.01},
    }
    return {"class_path": "mmig.methods.mmig.stages.paper.Stage1", "init_args": arguments(backbones) | changes}


CASES = {
    "stage4": Case(stage4),
    "finetune": Case(finetune, repeats=True),
    "kontext": Case(kontext, repeats=True),
    "fresh_transformer": Case(fresh_transformer, repeats=True),
    "refiner": Case(refiner, repeats=True),
    "queries": Case(queries, repeats=True),
    "started": Case(started, repeats=True),
}
