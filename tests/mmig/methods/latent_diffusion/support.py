"""Small autoencoders with everything that the published one has, and batches of captioned images."""

from pathlib import Path
from typing import Any

import torch

from experiments.random_features import write_random_features
from mmig.methods.latent_diffusion.adversarial import AdversarialAutoencoder
from mmig.methods.latent_diffusion.discriminator import DiscriminatorSize
from mmig.training.optim import OptimizerConfig
from tests.mmig.batches import edit_batch

WEIGHTS = {"reconstruction": 1.0, "lpips": 1.0, "kl": 1e-6, "gan": 0.5, "hinge": 1.0}
SIZES: dict[str, Any] = {
    "block_out_channels": [8, 16, 16],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 64,
}


def features_folder(place: Path) -> Path:
    """The backbone of LPIPS below a folder, written once."""
    folder = place / "random-features"
    return folder if folder.exists() else write_random_features(folder, "squeezenet1_1")


def adversarial(
    place: Path, weights: dict[str, float] | None = None, lr: float = 1e-3, **settings: Any
) -> AdversarialAutoencoder:
    """A small one of random weights."""
    torch.manual_seed(0)
    optimizer, features = OptimizerConfig(lr=lr), str(features_folder(place))
    size = DiscriminatorSize(8, 2, "instance")
    return AdversarialAutoencoder(optimizer, weights or WEIGHTS, features, size, **SIZES, **settings)


def captioned(size: int = 4, seed: int = 0, resolution: int = 64) -> Any:
    """Random sources and targets with their captions."""
    batch: Any = edit_batch(size, resolution, seed)
    for side in ("source", "target"):
        batch[f"{side}_caption"] = [f"a {side} circle"] * size
        batch[f"has_{side}_caption"] = torch.ones(size, dtype=torch.bool)
    return batch | {"metadata": [{}] * size}
