"""Published generators written anew as a folder that `load_generator` opens: rosinality's and NVIDIA's layouts.

No code in a file is run. NVIDIA's own `.pkl` files are programs: `NVIDIA_EXPORT` says what makes a file of weights of
one, where their code is at hand.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmig.backbones.files import new_folder
from mmig.backbones.parts import BackboneError
from mmig.backbones.weights import fill, read_weights, weight
from mmig.base.paths import looked_in, resolved
from mmig.diffusion.saving import save_parts
from mmig.methods.styleclip.generator import StyleGenerator

NVIDIA_EXPORT = "torch.save(G_ema.state_dict(), FILE)"
"""What makes a file that is read here of the `G_ema` of one of NVIDIA's `.pkl` files."""
_COMPUTED = re.compile(r"(.*\.)?resample_filter|.*\.kernel")
"""Filters, which are stored in both layouts and always the same."""


def read_named(file: str | Path) -> Mapping[str, Any]:
    """What a file holds by name, see `read_saved`.

    Raises:
        BackboneError: as of `read_saved`, or it holds something else.
    """
    content = read_saved(file)
    if not isinstance(content, Mapping):
        raise BackboneError(f"{file}: expected weights by name, found {type(content).__name__}; give a state dict")
    return content


def read_saved(file: str | Path) -> Any:
    """Tensors and plain values that torch saved, or the tensors of a .safetensors, without running code.

    Raises:
        BackboneError: no such file, one of NVIDIA's pickles, or a broken one.
    """
    path = resolved(file)
    if not path.is_file():
        raise BackboneError(f"{path}: expected a file of weights, found none{looked_in(path)}; correct the path")
    if path.suffix == ".safetensors":
        return read_weights(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch raise kinds of their own
        raise BackboneError(
            f"{path}: expected weights alone, found a file that holds code or is broken; it is not opened. Of NVIDIA's "
            f".pkl make a file of weights where their code is at hand: {NVIDIA_EXPORT}"
        ) from error


def convert_generator(file: str | Path, out: str | Path) -> Path:
    """Write `out`/generator of a published file, whose sizes are read from its weights.

    Args:
        file: rosinality's `.pt` (its `g_ema`), or the `state_dict` of NVIDIA's `G_ema` as .pt or .safetensors.
        out: a new folder.

    Raises:
        BackboneError: an unreadable file, a weight that is missing, unknown or of another shape, or `out` exists.
    """
    with new_folder(resolved(out), f"StyleGAN2's generator: weights of {Path(file).name}.") as partial:
        save_parts(partial, {"generator": generator_of(read_named(file), file)})
    return resolved(out)


def generator_of(content: Mapping[str, Any], file: str | Path) -> StyleGenerator:
    """The generator that a file holds, in float32.

    Args:
        content: of the file, see `read_saved`.
        file: for errors.

    Raises:
        BackboneError: as of `convert_generator`.
    """
    if "g_ema" in content:
        weights = renamed({**content["g_ema"], "latent_avg": content.get("latent_avg")}, file)
    else:
        weights = {name: value for name, value in content.items() if not _COMPUTED.fullmatch(name)}
    weights = {name: value.float() for name, value in weights.items()}
    settings = _sizes(weights, file)
    with torch.device("meta"):
        generator = StyleGenerator(**settings)
    measured = weights["mapping.w_avg"].isfinite().all()
    fill(generator, weights, file).requires_grad_(False).eval()
    if not measured:
        generator.measure_average()
    return generator


def renamed(state: Mapping[str, Any], file: str | Path) -> dict[str, Tensor]:
    """Weights of rosinality's layout under the names of this one.

    Args:
        state: of `g_ema`, and `latent_avg` (None where the file has none: the mean of W is measured then).
        file: for errors.

    Raises:
        BackboneError: a weight that is not there, or has no place.
    """
    convolutions = sum(bool(re.fullmatch(r"convs\.\d+\.conv\.weight", name)) for name in state)
    if convolutions == 0 or convolutions % 2:
        raise BackboneError(f"{file}: expected pairs of convs.N.conv.weight in g_ema, found {convolutions} of them")
    names = dict(_mapping_names(state)) | dict(_synthesis_names(convolutions // 2))
    left = sorted(n for n in state if n not in names.values() and not _COMPUTED.fullmatch(n) and n != "latent_avg")
    lacking = sorted(theirs for theirs in names.values() if theirs not in state)
    if left or lacking:
        raise BackboneError(
            f"{file}: expected rosinality's generator, found {len(lacking)} weights missing ({', '.join(lacking[:3])}) "
            f"and {len(left)} unknown ({', '.join(left[:3])}); give its own checkpoint"
        )
    found = {ours: _reshaped(ours, state[theirs]) for ours, theirs in names.items()}
    average = state.get("latent_avg")
    width = len(found["mapping.fc0.bias"])
    return found | {"mapping.w_avg": torch.full((width,), torch.nan) if average is None else average.reshape(-1)}


def _mapping_names(state: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(ours, rosinality's) of the mapping network, whose first layer is the normalisation."""
    layers = sum(bool(re.fullmatch(r"style\.\d+\.weight", name)) for name in state)
    for number in range(layers):
        for kind in ("weight", "bias"):
            yield f"mapping.fc{number}.{kind}", f"style.{number + 1}.{kind}"


def _synthesis_names(blocks: int) -> Iterator[tuple[str, str]]:
    """(ours, rosinality's) of the synthesis network with so many blocks beyond the first."""
    yield "synthesis.b4.const", "input.input"
    layers = [("b4.conv1", "conv1"), ("b4.torgb", "to_rgb1")]
    for block in range(blocks):
        side = 8 * 2**block
        layers += [(f"b{side}.conv{number}", f"convs.{2 * block + number}") for number in (0, 1)]
        layers.append((f"b{side}.torgb", f"to_rgbs.{block}"))
    noise = 0
    for ours, theirs in layers:
        ours = f"synthesis.{ours}"
        yield f"{ours}.weight", f"{theirs}.conv.weight"
        for kind in ("weight", "bias"):
            yield f"{ours}.affine.{kind}", f"{theirs}.conv.modulation.{kind}"
        if ours.endswith("torgb"):
            yield f"{ours}.bias", f"{theirs}.bias"
            continue
        yield f"{ours}.noise_strength", f"{theirs}.noise.weight"
        yield f"{ours}.bias", f"{theirs}.activate.bias"
        yield f"{ours}.noise_const", f"noises.noise_{noise}"
        noise += 1


def _reshaped(name: str, value: Tensor) -> Tensor:
    """Without the dimensions of size 1 that rosinality's weights have and ours have not."""
    if name.endswith("noise_strength"):
        return value.reshape([])
    if name.endswith("noise_const"):
        return value.reshape(value.shape[-2:])
    if name.endswith("torgb.bias"):
        return value.reshape(-1)
    return value[0] if name.endswith(".const") or (name.endswith(".weight") and value.ndim == 5) else value


def _sizes(weights: Mapping[str, Tensor], file: str | Path) -> dict[str, int]:
    """Settings of the generator whose weights these are."""
    first = weight(weights, "mapping.fc0.weight", 2, file)
    sides = sorted(
        int(found[1]) for name in weights if (found := re.fullmatch(r"synthesis\.b(\d+)\.conv1\.bias", name))
    )
    widths = {side: len(weights[f"synthesis.b{side}.conv1.bias"]) for side in sides}
    if not sides:
        raise BackboneError(f"{file}: expected synthesis.bN.conv1.bias, found none; give a generator of StyleGAN2")
    most = max(widths.values())
    return {
        "resolution": sides[-1],
        "z_dim": first.shape[1],
        "w_dim": first.shape[0],
        "num_mapping_layers": sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", name)) for name in weights),
        # the least base that gives the widest layers; `fill` says where the others do not follow from it
        "channel_base": max(side * width for side, width in widths.items()),
        "channel_max": most,
    }
