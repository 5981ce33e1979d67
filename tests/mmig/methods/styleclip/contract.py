"""StyleCLIP's modules as the contract sees them."""

import tempfile
from pathlib import Path
from typing import Any

import torch

from datamodules.schema import Sample
from mmig.methods.styleclip.generator import StyleGenerator
from tests.golden.samples import make_sample
from tests.mmig.methods.contract import Case
from tests.tiny_fixtures import TinyBackbones

SIDE = 16
SIZES = {"resolution": SIDE, "z_dim": 16, "w_dim": 16, "num_mapping_layers": 2, "channel_base": 128, "channel_max": 16}
DATA = {"resolution": SIDE}


def targets(count: int = 12) -> tuple[list[Sample], list[Sample]]:
    """Samples to train on, of which some lack a field, and as many to validate on."""
    trained, further = (list(map(make_sample, range(first, first + 3 * count))) for first in (0, 100))
    whole = [sample for sample in further if "source" in sample and "target_caption" in sample]
    return trained[:count], whole[:count]


def gan(_backbones: TinyBackbones) -> dict[str, Any]:
    """Generator and discriminator, every penalty within three steps."""
    augmentation = {"target": 0.1, "span": 64, "every": 1}
    optimizer = {"lr": 2.0e-3, "betas": [0.0, 0.99], "weight_decay": 0.0, "clip_norm": None}
    arguments = {
        "optimizer": optimizer,
        "augmentation": augmentation,
        "r1_every": 2,
        "path_every": 2,
        "deviation_group": 2,
    }
    return {"class_path": "mmig.methods.styleclip.gan.StyleGANModule", "init_args": arguments | SIZES}


def mapper(backbones: TinyBackbones) -> dict[str, Any]:
    """Two of the three groups, on a random generator."""
    folder = Path(tempfile.mkdtemp(dir=backbones.llama.parent))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        StyleGenerator(**SIZES).save_pretrained(folder / "generator")
    arguments = {
        "optimizer": {"lr": 0.05, "weight_decay": 0.0},
        "prompt": "a red circle",
        "generator": str(folder),
        "clip": str(backbones.open_clip),
        "groups": ["coarse", "fine"],
        "bounds": [2, 4],
        "sampling": {"inversion_steps": 2, "inversion_limit": None},
    }
    return {"class_path": "mmig.methods.styleclip.mapper_module.MapperModule", "init_args": arguments}


CASES = {
    "gan": Case(gan, targets, DATA, edits=False),
    "mapper": Case(mapper, targets, DATA, sampling=("inversion_steps=2",)),
}
