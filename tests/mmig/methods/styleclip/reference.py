"""StyleGAN2's generator once more, as its paper writes it: filters of each sample's own, zeros between pixels.

Weights have rosinality's names. Slow, in float64, and in nothing the way of `mmig.methods.styleclip`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
SIDES = (4, 8, 16)
WIDTHS = {4: 6, 8: 6, 16: 4}
W_DIM = 8
NUM_LAYERS = 3


def random_state(seed: int = 0) -> State:
    """A generator of 16 pixels with random weights and filters as rosinality stores them."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    state = {f"style.{i + 1}.weight": normal(W_DIM, W_DIM) * 100 for i in range(NUM_LAYERS)}
    state |= {f"style.{i + 1}.bias": normal(W_DIM) * 20 for i in range(NUM_LAYERS)}
    state["input.input"] = normal(1, WIDTHS[4], 4, 4)
    layers = [("conv1", 6, 6, 4), ("convs.0", 6, 6, 8), ("convs.1", 6, 6, 8), ("convs.2", 6, 4, 16)]
    layers.append(("convs.3", 4, 4, 16))
    for number, (name, before, width, side) in enumerate(layers):
        state[f"{name}.conv.weight"] = normal(1, width, before, 3, 3)
        state |= {f"{name}.conv.modulation.weight": normal(before, W_DIM), f"{name}.noise.weight": normal(1)}
        state |= {f"{name}.conv.modulation.bias": normal(before), f"{name}.activate.bias": normal(width)}
        state[f"noises.noise_{number}"] = normal(1, 1, side, side)
    for name, width in (("to_rgb1", 6), ("to_rgbs.0", 6), ("to_rgbs.1", 4)):
        state |= {f"{name}.conv.weight": normal(1, 3, width, 1, 1), f"{name}.bias": normal(1, 3, 1, 1)}
        state |= {f"{name}.conv.modulation.weight": normal(width, W_DIM), f"{name}.conv.modulation.bias": normal(width)}
    state |= {"convs.0.conv.blur.kernel": normal(4, 4), "to_rgbs.0.upsample.kernel": normal(4, 4)}
    return state


def linear(values: Tensor, state: State, name: str, scale: float = 1.0) -> Tensor:
    weight, bias = state[f"{name}.weight"].double(), state[f"{name}.bias"].double()
    return values @ (weight * scale / weight.shape[1] ** 0.5).T + bias * scale


def mapped(z: Tensor, state: State) -> Tensor:
    """w [B,W_DIM] of z."""
    values = z.double() / (z.double() ** 2).mean(1, keepdim=True).add(1e-8).sqrt()
    for number in range(NUM_LAYERS):
        values = linear(values, state, f"style.{number + 1}", 0.01)
        values = torch.where(values > 0, values, 0.2 * values) * 2**0.5
    return values


def filtered(image: Tensor) -> Tensor:
    """One map [H,W] behind [1,3,3,1] x [1,3,3,1] / 16, as long as it is without what reaches outside."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4  # gain 4 over both directions
    return F.conv2d(image[None, None], torch.outer(taps, taps)[None, None])[0, 0]


def spread(image: Tensor, before: int, after: int) -> Tensor:
    """A map with zeros between its pixels and round it."""
    wide = image.new_zeros(2 * image.shape[0], 2 * image.shape[1])
    wide[::2, ::2] = image
    return F.pad(wide, (before, after, before, after))


def styled(features: Tensor, w: Tensor, state: State, name: str, up: bool, demodulate: bool) -> Tensor:
    """One sample [I,H,W] under its own filters."""
    style = linear(w[None], state, f"{name}.conv.modulation")[0]
    filters = state[f"{name}.conv.weight"][0].double()
    filters = filters * style[None, :, None, None] / filters[0].numel() ** 0.5
    if demodulate:
        filters = filters / (filters.flatten(1).square().sum(1) + 1e-8).sqrt()[:, None, None, None]
    if not up:
        return F.conv2d(features[None], filters, padding=filters.shape[-1] // 2)[0]
    wide = torch.stack([spread(one, 2, 1) for one in features])[None]  # an open convolution of 2H - 1, then 2H + 1
    full = F.conv2d(wide, filters.flip(2, 3))[0]
    return torch.stack([filtered(F.pad(one, (1, 1, 1, 1))) for one in full])


def pictures(codes: Tensor, state: State) -> Tensor:
    """Pictures [B,3,16,16] of codes [B,6,W_DIM], with the stored noise."""
    return torch.stack([_picture(each.double(), state) for each in codes])


def _picture(codes: Tensor, state: State) -> Tensor:
    features, image, noise = state["input.input"][0].double(), None, 0
    blocks = [(["conv1"], "to_rgb1", 0), (["convs.0", "convs.1"], "to_rgbs.0", 1)]
    blocks.append((["convs.2", "convs.3"], "to_rgbs.1", 3))
    for convs, to_rgb, first in blocks:
        for number, name in enumerate(convs):
            features = styled(features, codes[first + number], state, name, len(convs) == 2 and number == 0, True)
            features = features + state[f"{name}.noise.weight"] * state[f"noises.noise_{noise}"][0].double()
            features = features + state[f"{name}.activate.bias"].double()[:, None, None]
            features = torch.where(features > 0, features, 0.2 * features) * 2**0.5
            noise += 1
        colours = styled(features, codes[first + len(convs)], state, to_rgb, False, False)
        colours = colours + state[f"{to_rgb}.bias"][0].double()
        if image is not None:
            colours = colours + torch.stack([filtered(spread(one, 2, 1)) for one in image])
        image = colours
    return image
