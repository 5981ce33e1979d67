"""Checkpoints of the original code (CompVis' latent diffusion): Stable Diffusion 1.x and InstructPix2Pix in one file,
or an autoencoder alone, written anew as a folder in diffusers' layout. The way back is `to_original.py`.

The names are translated by diffusers' own tables. Sizes, tokenizer and noise schedule, which such a file does not hold,
come from a pipeline of the same shape.
"""

import logging
import pickle
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from mmig.backbones.diffusion import check_compatible, load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.backbones.files import new_folder, read_json
from mmig.backbones.hub import locate
from mmig.backbones.original_names import AVERAGE_PREFIX, SCALE, TEXT_PREFIX, UNET_PREFIX, VAE_PREFIX, average_name
from mmig.backbones.parts import SCHEDULER, TEXT_ENCODER, TOKENIZER, UNET, VAE, BackboneError, Part
from mmig.base.files import write_json
from mmig.base.paths import looked_in, resolved

logger = logging.getLogger(__name__)
Weights = Literal["average", "trained"]

_PREFIXES = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, "text_encoder": TEXT_PREFIX}
_OF_AUTOENCODER = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.")
"""Beginnings of the names in a file of a first stage alone; beside them lie its losses' weights."""
_FILES = {UNET: "diffusion_pytorch_model", VAE: "diffusion_pytorch_model", TEXT_ENCODER: "model"}
_SMALL = (".json", ".txt")


def convert_original(file: str | Path, like: str | Path, out: Path, weights: Weights = "average") -> Path:
    """Write `out`: unet, vae, text_encoder, tokenizer, scheduler and model_index.json, in the precision of the file; of
    a first stage alone its vae.

    The latent scale is the file's own where it holds one, else that of `like`; a first stage alone that has none has
    none afterwards (`python -m mmig.methods.latent_diffusion.scale` measures it).

    Args:
        file: .ckpt or .safetensors; no code in it is run.
        like: folder or hub id of a pipeline of the same sizes (Stable Diffusion 1.5 for what was trained from it), of
            which the configurations, the tokenizer and the scheduler are taken, and no weights. The number of input
            channels is the file's own.
        out: a new folder.
        weights: of the UNet: their "average" (`model_ema.*`), with which the original code samples, where the file
            holds one, or those "trained" (`model.diffusion_model.*`), from which a training goes on.

    Raises:
        BackboneError: an unreadable file, another layout, other sizes than `like`, or `out` exists.
    """
    file, out = resolved(file), resolved(out)
    with new_folder(out, f"Weights of {file.name}, a checkpoint of the original code of latent diffusion.") as partial:
        state = read_original(file)
        if not any(name.startswith(UNET_PREFIX) for name in state):
            _write_autoencoder(state, like, partial, file)
        else:
            _write(with_average(state, file) if weights == "average" else state, like, partial, file)
    return out


def read_original(file: Path) -> dict[str, Tensor]:
    """The weights of a file by their original names, those of a first stage alone as if it were part of a whole.

    Raises:
        BackboneError: unreadable, or neither UNet, autoencoder and CLIP text encoder of that layout in it nor a first
            stage alone.
    """
    if not file.is_file():
        raise BackboneError(f"{file}: expected a file of weights, found none{looked_in(file)}; correct the path")
    try:
        state = _read(file)
    except Exception as error:  # pickle, zip and safetensors raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise BackboneError(f"{file}: cannot be read as weights: {reason}; fetch the file again") from error
    if all(any(name.startswith(begin) for name in state) for begin in _OF_AUTOENCODER):
        own = {VAE_PREFIX + name: value for name, value in state.items() if name.startswith(_OF_AUTOENCODER)}
        return own | {name: value for name, value in state.items() if name == SCALE}
    for part, prefix in _PREFIXES.items():
        if not any(name.startswith(prefix) for name in state):
            found = ", ".join(sorted({name.partition(".")[0] for name in state})[:8]) or "no tensors"
            raise BackboneError(
                f"{file}: expected a {part} under {prefix}* as in Stable Diffusion 1.x, found {found}; give a "
                "checkpoint of the original code"
            )
    return state


def with_average(state: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The weights with those of the UNet replaced by their average, where there is one.

    Raises:
        BackboneError: an average of other weights.
    """
    changed = dict(state)
    averages = {name for name in state if name.startswith(AVERAGE_PREFIX)}
    if not averages:
        logger.warning(
            "%s: holds no average of the UNet's weights (%s*); its only ones are taken", file, AVERAGE_PREFIX
        )
        return changed
    for name in state:
        if name.startswith(UNET_PREFIX):
            average = average_name(name)
            if average not in averages:
                raise BackboneError(
                    f"{file}: expected {average}, the average of {name}, found none; give --weights trained"
                )
            changed[name] = state[average]
    return changed


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(file)
    # A training's file holds objects of its callbacks beside the weights: they are read as blanks, not built.
    blanks: list[Any] = [(_Blank, name) for name in torch.serialization.get_unsafe_globals_in_checkpoint(file)]
    with torch.serialization.safe_globals(blanks):
        content = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(content, dict):
        raise pickle.UnpicklingError(f"expected weights by name, found {type(content).__name__}")
    state = content.get("state_dict", content)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


class _Blank:
    """Stands where a file names a class or function that torch does not know to be safe; does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def _write(state: Mapping[str, Tensor], like: str | Path, folder: Path, file: Path) -> None:
    """Write all parts to a folder and open each of them again."""
    for part, weights in _FILES.items():
        _write_part(state, like, folder / part.name, part, weights, file)
    for part in (TOKENIZER, SCHEDULER):
        _copy_small(locate(like, part), folder / part.name)
    with _of_its_sizes(file, like, folder):
        unet, vae, text_encoder = load_unet(folder), load_vae(folder), load_text_encoder(folder)
        check_compatible(unet, text_encoder, vae, load_tokenizer(folder))
    edits = unet.config.in_channels == 2 * vae.config.latent_channels
    _write_index(folder, f"StableDiffusion{'InstructPix2Pix' if edits else ''}Pipeline")


@contextmanager
def _of_its_sizes(file: Path, like: str | Path, folder: Path) -> Iterator[None]:
    """Say of what cannot be opened that the file is of other sizes."""
    try:
        yield
    except BackboneError as error:
        reason = str(error).replace(f"{folder}/", "")
        raise BackboneError(f"{file}: does not fit the sizes of {like}: {reason}") from error


def _write_autoencoder(state: Mapping[str, Tensor], like: str | Path, folder: Path, file: Path) -> None:
    """Write a first stage alone and open it again."""
    _write_part({SCALE: None, **state}, like, folder / VAE.name, VAE, _FILES[VAE], file)
    with _of_its_sizes(file, like, folder):
        load_vae(folder)


def _write_part(
    state: Mapping[str, Tensor | None], like: str | Path, folder: Path, part: Part, weights: str, file: Path
) -> None:
    """Configuration and weights of a part; the scale None is one that was not measured."""
    from safetensors.torch import save_file

    config = read_json(locate(like, replace(part, has_weights=False)) / "config.json")
    config = {name: value for name, value in config.items() if name not in ("_name_or_path", "name_or_path")}
    own = {name: value for name, value in state.items() if name.startswith(_PREFIXES[part.name])}
    if part is UNET:
        config["in_channels"] = own[f"{UNET_PREFIX}input_blocks.0.0.weight"].shape[1]
    if part is VAE and SCALE in state:
        config["scaling_factor"] = None if state[SCALE] is None else round(float(state[SCALE]), 5)
    try:
        translated = _translated(part, own, config)
    except (KeyError, AttributeError, IndexError) as error:  # diffusers' tables meet names that they do not know
        raise BackboneError(
            f"{file}: the {part.name} does not have the blocks of {like}; give a pipeline of its sizes"
        ) from error
    folder.mkdir(parents=True)
    write_json(folder / "config.json", config)
    target = folder / f"{weights}.safetensors"
    save_file({name: value.contiguous() for name, value in translated.items()}, target, metadata={"format": "pt"})
    target.chmod(0o644)  # safetensors would hide it from others


def _translated(part: Part, state: dict[str, Tensor], config: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of a part by their names in diffusers and transformers."""
    from diffusers.loaders import single_file_utils as tables

    if part is UNET:
        return tables.convert_ldm_unet_checkpoint(state, config)
    if part is VAE:
        return tables.convert_ldm_vae_checkpoint(state, config)
    return tables.convert_ldm_clip_checkpoint(state)


def _copy_small(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file() and file.suffix in _SMALL:
            shutil.copyfile(file, folder / file.name)


def _write_index(folder: Path, pipeline: str) -> None:
    """model_index.json, by which diffusers opens the folder."""
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json")["_class_name"]
    index = {
        "_class_name": pipeline,
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", scheduler],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", index)
