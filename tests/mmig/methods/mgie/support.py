"""MGIE on tiny random backbones, and batches for it."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from mmig.backbones.llm import load_llm_tokenizer
from mmig.backbones.mllm import load_mllm, pixel_statistics
from mmig.backbones.named import Origin
from mmig.backbones.parts import MLLM_TOKENIZER
from mmig.methods.mgie.head import HeadSize
from mmig.methods.mgie.module import MGIEModule
from mmig.methods.mgie.released import convert_released
from mmig.methods.mgie.writer import InstructionWriter, WriterConfig
from mmig.training.optim import OptimizerConfig
from tests.mmig.batches import edit_batch
from tests.tiny_fixtures import build_stable_diffusion
from tests.tiny_llava import build_llava
from tests.tiny_mgie_released import Released

HEAD = HeadSize(dim=16, num_queries=7, heads=2, layers=1, feed_forward=32)
EXPRESSIVE = ["make the red circle blue.", "remove the large square.", "turn the picture into night.", "add a star."]


@cache
def folders() -> tuple[Path, Path]:
    """Stable Diffusion and LLaVA, written once a process."""
    root = Path(mkdtemp())
    return build_stable_diffusion(root / "stable-diffusion"), build_llava(root / "llava")


def writer(sees: bool = True, **settings: Any) -> InstructionWriter:
    """The language model alone, its weights large enough that texts and pictures matter."""
    llava = folders()[1]
    torch.manual_seed(0)
    llm = load_mllm(llava, sees=sees)
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(8.0 if parameter.ndim > 1 else 1.0)
    tokenizer = load_llm_tokenizer(Origin(str(llava), MLLM_TOKENIZER))
    return InstructionWriter(llm, tokenizer, pixel_statistics(llava) if sees else None, WriterConfig(**settings))


def module(optimizer: OptimizerConfig | None = None, **settings: Any) -> MGIEModule:
    """A module to train."""
    diffusion, llava = map(str, folders())
    torch.manual_seed(0)
    optimizer = optimizer or OptimizerConfig(weight_decay=0.0)
    return MGIEModule(optimizer, diffusion, diffusion, llava, **{"head": HEAD, **settings})


def batch(size: int = 4, seed: int = 0) -> Any:
    """Random pictures with every text."""
    return edit_batch(size, seed=seed) | {
        "expressive": [EXPRESSIVE[row % 4] for row in range(size)],
        "has_expressive": torch.ones(size, dtype=torch.bool),
    }


def convert(files: Released, diffusion: str, out: Path, **changes: Any) -> Path:
    """The released files as a folder of ours."""
    given = {"mllm": files.mllm, "unet": files.unet, "llava": files.llava, "backbone": diffusion, "out": out}
    return convert_released(**given | changes)
