"""MGIE and LGIE as the contract sees them."""

from typing import Any

from datamodules.schema import Sample
from tests.mmig.methods.contract import Case, golden_samples
from tests.tiny_fixtures import TinyBackbones
from tests.tiny_llava import build_llava
from tests.tiny_qwen_vl import BEHIND, END, PATCH, START, TURN, build_qwen_vl


def samples() -> tuple[list[Sample], list[Sample]]:
    """The golden ones with an expressive instruction, of which one to train on has none."""
    train, val = golden_samples()
    for sample in (*train, *val):
        sample["expressive"] = f"put a {sample['object_phrase'].removeprefix('a ')} over the middle"
    del train[5]["expressive"]
    return train, val


def arguments(backbones: TinyBackbones, **settings: Any) -> dict[str, Any]:
    """Of both."""
    llava = backbones.llama.parent / "llava"
    if not llava.exists():
        build_llava(llava)
    root = str(backbones.stable_diffusion)
    return {
        "optimizer": {"lr": 1.0e-3, "weight_decay": 0.0, "groups": {"unet": {"lr": 2.0e-4}}},
        "backbone": root,
        "unet": root,
        "mllm": str(llava),
        "head": {"dim": 16, "num_queries": 7, "heads": 2, "layers": 1, "feed_forward": 32},
        "sampling": {"num_steps": 2, "max_new_tokens": 5},
        "micro_batch_size": 2,
        **settings,
    }


def mgie(backbones: TinyBackbones) -> dict[str, Any]:
    """As published: whole tables train."""
    return {"class_path": "mmig.methods.mgie.module.MGIEModule", "init_args": arguments(backbones)}


def lgie(backbones: TinyBackbones) -> dict[str, Any]:
    """Without eyes, and with the new rows alone."""
    settings = arguments(backbones, sees=False, language={"rows": "new", "num_image_tokens": 4})
    return {"class_path": "mmig.methods.mgie.module.MGIEModule", "init_args": settings}


def qwen(backbones: TinyBackbones) -> dict[str, Any]:
    """On another family of multimodal LLMs, whose places and picture tokens are its own."""
    folder = backbones.llama.parent / "qwen-vl"
    if not folder.exists():
        build_qwen_vl(folder, "Qwen3")
    asked = f"{TURN}user\nwhat will this image be like if '{{instruction}}'\n{START}{{image}}{BEHIND}{END}\n"
    language = {"prompt": f"{asked}{TURN}assistant\n", "image_size": 4 * PATCH}
    settings = arguments(backbones, mllm=str(folder), language=language)
    return {"class_path": "mmig.methods.mgie.module.MGIEModule", "init_args": settings}


CASES = {
    "mgie": Case(mgie, samples),
    "lgie": Case(lgie, samples, repeats=True),
    "mgie-qwen-vl": Case(qwen, samples, repeats=True),
}
