"""Features of which FID and KID compare two sets: of a network of its own, or those of another encoder."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmig.backbones.fingerprint import file_fingerprint
from mmig.backbones.parts import BackboneError
from mmig.backbones.torchvision_weights import default_weights, load_state, weights_file
from mmig.backbones.weights import read_weights
from mmig.metrics.images import check_range
from mmig.metrics.preprocess import Preprocessing, prepare_images

FID_INCEPTION = "fid_inception"
SHARED = ("clip", "dino")
_AS_TRAINED = {name: {"transform_input": True, "init_weights": False} for name in ("inception_v3", "googlenet")}
"""What torchvision sets by itself where it loads the weights."""


@dataclass(frozen=True)
class SharedFeatures:
    """The features of unit length that another encoder computes already, "clip" (open_clip's) or "dino"."""

    name: str

    def describe(self) -> dict[str, Any]:
        """For metrics.json, which describes the encoder beside it."""
        return {"name": self.name, "unit_length": True}


class NetworkFeatures:
    """Features of images, computed in fp32 without gradients.

    Args:
        network: prepared images -> features [B,D].
        prepare: images float [B,3,H,W] in [0,1] -> what the network takes.
        identity: what names weights and preprocessing in metrics.json.
        device: where the network runs.
    """

    def __init__(
        self,
        network: nn.Module,
        prepare: Callable[[Tensor], Tensor],
        identity: dict[str, Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.network = network.to(device=device, dtype=torch.float32).eval().requires_grad_(False)
        self.prepare = prepare
        self.device = torch.device(device)
        self._identity = dict(identity or {})

    def describe(self) -> dict[str, Any]:
        """Weights and preprocessing identifiers for metrics.json."""
        return {**self._identity, "precision": "fp32"}

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Images float [B,3,H,W] in [0,1] -> float32 [B,D].

        Raises:
            ImageRangeError: for images outside [0,1].
        """
        check_range(images, 0.0, 1.0)
        with torch.autocast(self.device.type, enabled=False):
            return self.network(self.prepare(images.to(self.device).float())).flatten(1).float()


def load_features(
    name: str, weights: str | Path | None = None, device: torch.device | str = "cpu"
) -> SharedFeatures | NetworkFeatures:
    """The features of a name.

    Args:
        name: "clip" or "dino", those encoders' own; "fid_inception", with torch-fidelity's file of weights; or a model
            of torchvision, whose features are what its last linear layer reads.
        weights: file of the weights; None for torchvision's default ones in torch's cache.
        device: where the network runs.

    Raises:
        BackboneError: no such model, one without a linear layer, or weights that are missing or of another model.
    """
    if name in SHARED:
        if weights is not None:
            raise BackboneError(f"features: {name!r} are those of --{name}; leave weights out (found {weights})")
        return SharedFeatures(name)
    if name == FID_INCEPTION:
        from mmig.backbones.fid_inception import IMAGE_SIZE, load_fid_inception, prepare_for_fid

        if weights is None:
            raise BackboneError(f"features: {name} needs the file weights-inception-2015-12-05-6726825d.pth; give it")
        file = weights_file(name, weights)
        identity = {**_identity(name, weights, file), "image_size": IMAGE_SIZE, "resize": "bilinear of TensorFlow 1"}
        return NetworkFeatures(load_fid_inception(file), prepare_for_fid, identity, device)
    return _torchvision_features(name, weights, device)


def _torchvision_features(name: str, weights: str | Path | None, device: torch.device | str) -> NetworkFeatures:
    from torchvision.models import get_model

    constants = default_weights(name).transforms()
    file = weights_file(name, weights)
    network = get_model(name, weights=None, **_AS_TRAINED.get(name, {}))
    load_state(network, read_weights(file), file)
    linear = [place for place, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise BackboneError(f"features: {name} has no linear layer whose input could be the features; give another")
    network.set_submodule(linear[-1], nn.Identity())
    size, preprocessing = constants.crop_size[0], Preprocessing()
    mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (constants.mean, constants.std))
    known = {"image_size": size, "mean": list(constants.mean), "std": list(constants.std)}
    identity = {**_identity(name, weights, file), **known, "preprocessing": preprocessing.describe(reads_texts=False)}
    return NetworkFeatures(network, partial(_normalised, size, preprocessing, mean, std), identity, device)


def _normalised(size: int, preprocessing: Preprocessing, mean: Tensor, std: Tensor, images: Tensor) -> Tensor:
    return (prepare_images(images, size, preprocessing) - mean) / std


def _identity(name: str, weights: str | Path | None, file: Path) -> dict[str, Any]:
    return {"name": name, "weights": str(weights or file.name), "fingerprint": file_fingerprint(file)}
