"""InstructAny2Pix as the contract sees it: each of its trainings, on the world of any modality."""

from typing import Any

from datamodules.schema import Sample
from tests.mmig.methods.contract import NUM_SAMPLES, Case
from tests.mmig.methods.instruct_any2pix.support import DATA, MODULES, PRIOR, decoder_folder, path, sample_at
from tests.tiny_fixtures import TinyBackbones

_OPTIMIZER = {"lr": 1.0e-3, "weight_decay": 0.0, "clip_norm": None}


def samples() -> tuple[list[Sample], list[Sample]]:
    """Of those to train on one has no target, one no caption of it, and one no attachment."""
    train, val = ([sample_at(index, split) for index in range(NUM_SAMPLES)] for split in ("train", "val"))
    train[3].pop("target")
    train[5].pop("target_caption")
    train[6].pop("attachments")
    train[6]["instruction"] = "remove the red circle"
    return train, val


def prior(_backbones: TinyBackbones) -> dict[str, Any]:
    """Both ways, with scores."""
    arguments = {
        "optimizer": _OPTIMIZER,
        "imagebind": path("imagebind"),
        "aesthetic": path("aesthetic"),
        "aesthetic_clip": path("clip"),
        "size": PRIOR,
        "both_ways": True,
        "micro_batch_size": 2,
    }
    return {"class_path": f"{MODULES}.prior_module.PriorModule", "init_args": arguments}


def decoder(_backbones: TinyBackbones, **settings: Any) -> dict[str, Any]:
    """The paper's, for SDXL's denoiser."""
    arguments = {
        "optimizer": {**_OPTIMIZER, "groups": {"unet": {"lr": 1.0e-4}}},
        "backbone": path("sdxl"),
        "unet": path("sdxl"),
        "imagebind": path("imagebind"),
        "projector": {"hidden_dim": 24},
        "sampling": {"num_steps": 2},
        "micro_batch_size": 2,
        **settings,
    }
    return {"class_path": f"{MODULES}.decoder_module.DecoderModule", "init_args": arguments}


def ip_adapter(backbones: TinyBackbones) -> dict[str, Any]:
    """Its other variant, through a denoiser that rests."""
    texts = {"text": path("sdxl"), "second_text": path("sdxl")}
    return decoder(backbones, variant="ip_adapter", train_unet="none", optimizer=_OPTIMIZER, **texts)


def language(phase: int, **settings: Any) -> dict[str, Any]:
    """One phase of the language model, with a decoder to edit with."""
    arguments = {
        "optimizer": {**_OPTIMIZER, "lr": 1.0e-4},
        "llm": path("llama"),
        "imagebind": path("imagebind"),
        "prior": path("prior"),
        "decoder": decoder_folder(),
        "language": {"max_length": 128},
        "sampling": {"num_steps": 2, "max_new_tokens": 4},
        "micro_batch_size": 2,
        **settings,
    }
    return {"class_path": f"{MODULES}.language_module.LLM{phase}Module", "init_args": arguments}


def llm1(_backbones: TinyBackbones) -> dict[str, Any]:
    """Projectors and tables."""
    return language(1)


def llm2(_backbones: TinyBackbones) -> dict[str, Any]:
    """All of the language model."""
    return language(2)


def llm3(_backbones: TinyBackbones) -> dict[str, Any]:
    """Low-rank updates, rows of the new tokens alone, and edited pictures as targets."""
    return language(3, lora={"rank": 2}, language={"rows": "new", "max_length": 128})


_ATTACH = ("--attach", "audio={folder}/tone.wav", "--attach", "image={folder}/picture.png")
_DRAWN: dict[str, Any] = {"instruction": "draw <audio:0>", "inputs": _ATTACH[:2]}
_EDITED: dict[str, Any] = {"instruction": "add <audio:0> to <image:1>", "inputs": _ATTACH}
CASES = {
    "prior": Case(prior, samples, DATA, edits=False),
    "decoder": Case(decoder, samples, DATA, **_DRAWN),
    "ip-adapter": Case(ip_adapter, samples, DATA, **_DRAWN, repeats=True),
    "llm1": Case(llm1, samples, DATA, **_EDITED),
    "llm2": Case(llm2, samples, DATA, **_EDITED, repeats=True),
    "llm3": Case(llm3, samples, DATA, **_EDITED, repeats=True),
}
