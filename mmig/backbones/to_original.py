"""A folder in diffusers' layout as one file of the original code (CompVis' latent diffusion); `original.py` reads it.

Of a pipeline the names are those of Stable Diffusion 1.x, of an autoencoder alone those of the first stage.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmig.backbones.diffusion import check_compatible, load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.backbones.hub import locate
from mmig.backbones.original_names import SCALE, VAE_PREFIX, original_text_encoder, original_unet, original_vae
from mmig.backbones.parts import UNET, VAE, BackboneError
from mmig.base.files import replacing
from mmig.base.paths import resolved

SUFFIXES = (".ckpt", ".safetensors")


def write_original(path: str | Path, out: Path) -> Path:
    """Write the parts of a pipeline, or an autoencoder alone, in single precision; the latent scale is `scale_factor`.

    Noise schedule, tokenizer and the parts' configurations are not part of such a file.

    Args:
        path: folder or hub id of a pipeline with `unet`, `vae`, `text_encoder` and `tokenizer`, or of an autoencoder; a
            run of ours.
        out: a new .ckpt or .safetensors.

    Raises:
        BackboneError: a part is missing or broken or does not fit the others, `out` exists or has another suffix.
    """
    out = resolved(out)
    if out.suffix not in SUFFIXES:
        raise BackboneError(f"{out}: expected a file .ckpt or .safetensors, found the suffix {out.suffix!r}; rename it")
    if out.exists():
        raise BackboneError(f"{out}: exists already; give a new file")
    vae, folder = load_vae(path), locate(path, VAE)
    scale = vae.config.scaling_factor
    state = original_vae(vae.state_dict(), vae.config) | ({} if scale is None else {SCALE: torch.tensor(scale)})
    if folder != resolved(path) and (folder.parent / UNET.subfolder).is_dir():
        state |= _others(path, vae)
    else:
        state = {name.removeprefix(VAE_PREFIX): value for name, value in state.items()}
    _save({name: value.contiguous() for name, value in state.items()}, out)
    return out


def _others(path: str | Path, vae: Any) -> dict[str, Tensor]:
    """UNet and text encoder of a pipeline."""
    unet, text_encoder = load_unet(path), load_text_encoder(path)
    check_compatible(unet, text_encoder, vae, load_tokenizer(path))
    return original_unet(unet.state_dict(), unet.config) | original_text_encoder(text_encoder.state_dict())


def _save(state: dict[str, Tensor], out: Path) -> None:
    from safetensors.torch import save_file

    with replacing(out) as partial:
        if out.suffix == ".ckpt":
            torch.save({"state_dict": state}, partial)
        else:
            save_file(state, partial, metadata={"format": "pt"})
            partial.chmod(0o644)  # safetensors would hide it from others
