"""The encoder for editing (Tov et al. 2021, e4e): a picture -> its code w+, in one forward. Inference only."""

import math
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmig.backbones.loading import refuse_wrong
from mmig.backbones.parts import BackboneError
from mmig.methods.styleclip.ir_se import make_body, make_stem
from mmig.methods.styleclip.layers import EqualLinear
from mmig.methods.styleclip.published import read_named

SIDE = 256
TAPS = (6, 20, 23)
"""Units of the body whose features are read: 128, 256 and 512 channels."""
COARSE, MIDDLE = 3, 7
"""The first heads that read a finer map."""


class StyleHead(nn.Module):
    """A map of features -> one vector of 512.

    Args:
        side: of the map; halved down to 1.
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(int(math.log2(side))):
            layers += [nn.Conv2d(512, 512, 3, 2, 1), nn.LeakyReLU()]
        self.convs = nn.Sequential(*layers)
        self.linear = EqualLinear(512, 512)

    def forward(self, features: Tensor) -> Tensor:
        """[B,512] of [B,512,side,side]."""
        return self.linear(self.convs(features).flatten(1))


class EditingEncoder(nn.Module):
    """Pictures -> codes: one w for all layers, and what each differs from it.

    Args:
        num_codes: n of the generator.
    """

    latent_avg: Tensor

    def __init__(self, num_codes: int = 18) -> None:
        super().__init__()
        self.input_layer, self.body = make_stem(), make_body()
        sides = [16 if index < COARSE else 32 if index < MIDDLE else 64 for index in range(num_codes)]
        self.styles = nn.ModuleList(StyleHead(side) for side in sides)
        self.latlayer1, self.latlayer2 = nn.Conv2d(256, 512, 1), nn.Conv2d(128, 512, 1)
        self.register_buffer("latent_avg", torch.zeros(num_codes, 512))

    def forward(self, images: Tensor) -> Tensor:
        """w+ [B,num_codes,512] of pictures [B,3,H,W] in [-1,1], which are brought to 256 pixels."""
        if images.shape[-1] != SIDE:
            images = F.interpolate(images, (SIDE, SIDE), mode="bilinear", antialias=True)
        features, taps = self.input_layer(images), []
        for number, unit in enumerate(self.body):
            features = unit(features)
            if number in TAPS:
                taps.append(features)
        fine, middle, coarse = taps
        middle = _added(coarse, self.latlayer1(middle))
        maps = (coarse, middle, _added(middle, self.latlayer2(fine)))
        first = self.styles[0](coarse)
        rows = [first]
        for index, head in enumerate(self.styles[1:], 1):
            rows.append(first + head(maps[(index >= COARSE) + (index >= MIDDLE)]))
        return torch.stack(rows, dim=1) + self.latent_avg


def load_e4e(file: str | Path, num_codes: int) -> EditingEncoder:
    """A frozen encoder from the authors' checkpoint, or a file with its `encoder.*` and `latent_avg`.

    Args:
        file: .pt of {"state_dict", "latent_avg"}, or a flat .safetensors; no code in it is run.
        num_codes: n of the generator that it must fit.

    Raises:
        BackboneError: a missing or unreadable file, or an encoder of another generator.
    """
    content = read_named(file)
    state: dict[str, Any] = {**content.get("state_dict", content), "latent_avg": content.get("latent_avg")}
    weights = {n.removeprefix("encoder."): value for n, value in state.items() if n.startswith("encoder.")}
    found = sum(name.startswith("styles.") and name.endswith("linear.bias") for name in weights)
    if found != num_codes:
        raise BackboneError(
            f"{file}: expected an encoder of the {num_codes} codes of the generator, found one of {found}; give the "
            "encoder that was trained for it"
        )
    average = state["latent_avg"]
    if not isinstance(average, Tensor) or average.shape[-1] != 512:
        raise BackboneError(
            f"{file}: expected latent_avg, rows of 512 numbers, found none; give the authors' whole file"
        )
    weights["latent_avg"] = average.reshape(-1, 512).expand(num_codes, 512)
    encoder = EditingEncoder(num_codes)
    own = encoder.state_dict()
    wrong = {
        "missing": sorted(own.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - own.keys()),
        "of another shape": sorted(n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape),
    }
    refuse_wrong(wrong, str(file), "the weights of e4e's encoder", "give the authors' checkpoint")
    encoder.load_state_dict(weights)
    return encoder.requires_grad_(False).eval()


def _added(coarse: Tensor, fine: Tensor) -> Tensor:
    """A map of a pyramid: the coarser one, enlarged, and its own."""
    return F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True) + fine
