"""An image network of torchvision with random weights, where the one trained on ImageNet cannot be fetched.

    python -m experiments.random_features vgg16 --out data/random_features/vgg16 [--seed 0]

The folder is what `perceptual` of mmig.methods.latent_diffusion.adversarial reads, its model.safetensors what
`lpips_weights` and `--lpips NAME WEIGHTS` take. A distance of random features is 0 where pictures agree and grows with
what edges and textures differ in, but it was fitted to nobody's eyes and is no LPIPS: its numbers are to be compared
with each other alone, and told as what they are.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.files import write_json
from mmig.metrics.lpips import BACKBONES


def write_random_features(folder: Path, model: str, seed: int = 0) -> Path:
    """Write config.json and model.safetensors: the convolutions alone, drawn as He et al. (2015) do.

    Args:
        folder: made if missing.
        model: torchvision's name, of `mmig.metrics.lpips.BACKBONES`.
        seed: of the weights.
    """
    import torchvision

    with torch.device("meta"):
        features = getattr(torchvision.models, model)(weights=None).features
    source = torch.Generator().manual_seed(seed)
    state = {}
    for name, value in features.state_dict().items():  # kernels keep the size of what they see, biases are 0
        spread = (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else 0.0
        state[f"features.{name}"] = spread * torch.randn(value.shape, generator=source)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors would hide it from others
    write_json(folder / "config.json", {"architecture": model, "random": True, "seed": seed})
    return folder


def main(arguments: list[str] | None = None) -> None:
    """Write the folder."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=sorted(BACKBONES.values()), help="of torchvision")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0, help="of the weights (default: 0)")
    options = parser.parse_args(arguments)
    with one_line_errors():
        write_random_features(options.out, options.model, options.seed)


if __name__ == "__main__":
    main()
