"""Tiny image models with RANDOM weights in the published layouts: DINO (ViT), DINOv2, and backbones of torchvision."""

from pathlib import Path
from typing import Literal

import torch

from tests.tiny_saving import save, seeded, write_json

DINO_SIZE = 32
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}


def build_dino(folder: Path, kind: Literal["dino", "dinov2"] = "dino", *, seed: int = 0) -> Path:
    """Write a transformer of 2 blocks as facebook/dino-vits16 or facebook/dinov2-small lies there."""
    from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
    with seeded(seed):
        if kind == "dino":
            config = ViTConfig(**sizes, intermediate_size=48, image_size=DINO_SIZE)
            model = ViTModel(config, add_pooling_layer=False)
        else:  # trained on larger images than its processor gives it
            model = Dinov2Model(Dinov2Config(**sizes, image_size=56))
    save(model, folder, torch.float32)
    square = {"height": DINO_SIZE, "width": DINO_SIZE}
    seen = {"size": square} if kind == "dino" else {"size": {"shortest_edge": 36}, "crop_size": square}
    write_json(folder / "preprocessor_config.json", {**seen, **IMAGENET, "do_center_crop": kind != "dino"})
    return folder


def build_lpips_backbone(file: Path, model: Literal["alexnet", "vgg16", "squeezenet1_1"], *, seed: int = 0) -> Path:
    """Write weights under torchvision's names; of the classifier only a sign, for LPIPS does not read it."""
    import torchvision

    with torch.device("meta"):
        features = getattr(torchvision.models, model)(weights=None).features
    with seeded(seed):
        state = {
            f"features.{name}": torch.randn(value.shape) * (2 / max(value[0].numel(), 1)) ** 0.5
            for name, value in features.state_dict().items()
        }
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**state, "classifier.1.weight": torch.zeros(1)}, file)
    return file
