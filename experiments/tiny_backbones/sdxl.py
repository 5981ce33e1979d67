"""The tiny editing UNet in SDXL's form, as a start for training: two text encoders, a pooled vector and sizes.

    python -m experiments.tiny_backbones.sdxl --imagebind runs/tiny-imagebind --data FILE --out exports/sdxl

Of the published form the second text encoder is OpenCLIP's; here it is ImageBind's text tower, which OpenCLIP's became.
What the UNet knows of texts is carried over: SDXL reads other states than Stable Diffusion, of which those are guessed
by least squares.
"""

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from experiments.demo import console
from mmig.backbones.diffusion import load_scheduler, load_text_encoder, load_tokenizer, load_unet, load_vae
from mmig.base.commands import OptionParser, one_line_errors
from mmig.diffusion.saving import save_pipeline
from mmig.diffusion.sdxl import encode_by_two, sdxl_embedding
from mmig.diffusion.text import encode_text
from mmig.evaluation.data import split_batches
from mmig.methods.instruct_any2pix.vectors import load_encoder
from mmig.methods.instruct_pix2pix.module import EMPTY_TEXT

BASE, EDITOR = "assets/tiny/stable-diffusion", "assets/tiny/instruct-pix2pix"
NUM_BATCHES = 40
RIDGE = 1e-4
"""Weight of the squares of the map, as a part of the mean square of what is read."""


@torch.no_grad()
def in_sdxl_form(unet: UNet2DConditionModel, carried: Tensor, pooled_dim: int) -> UNet2DConditionModel:
    """The UNet as one of SDXL's, which at first makes nothing of pooled vector and sizes.

    Args:
        unet: of Stable Diffusion's form.
        carried: [D,d] from what SDXL's form reads, D wide, to what the UNet has read so far, d wide.
        pooled_dim: width of the vector.
    """
    config = {**unet.config, **sdxl_embedding(pooled_dim), "cross_attention_dim": carried.shape[0]}
    found = UNet2DConditionModel.from_config(config)
    shapes = {name: value.shape for name, value in found.state_dict().items()}
    reads = {name for name, value in unet.state_dict().items() if value.shape != shapes[name]}  # keys and values
    weights = {name: value @ carried.T if name in reads else value for name, value in unet.state_dict().items()}
    found.load_state_dict(weights, strict=False)
    nn.init.zeros_(found.add_embedding.linear_2.weight)
    nn.init.zeros_(found.add_embedding.linear_2.bias)
    return found


def least_squares(read: Tensor, wanted: Tensor) -> tuple[Tensor, float]:
    """The map [D,d] from rows [N,D] to rows [N,d], and the part of the latter's mean square that it explains."""
    read, wanted = read.double(), wanted.double()
    products = read.T @ read
    products.diagonal().add_(RIDGE * products.diagonal().mean())
    found = torch.linalg.solve(products, read.T @ wanted)
    left = (read @ found - wanted).square().sum() / wanted.square().sum()
    return found.float(), 1 - left.item()


@torch.no_grad()
def write_sdxl(imagebind: str, texts: Sequence[str], out: Path) -> float:
    """Write the pipeline, for `InstructPix2PixModule` to start from; returns what `least_squares` explains.

    Args:
        imagebind: folder or run of the encoder.
        texts: from which the map is found.
        out: folder to write.
    """
    torch.manual_seed(0)  # of the layer that reads the vector and the sizes
    first, tokenizer, encoder = load_text_encoder(BASE), load_tokenizer(BASE), load_encoder(imagebind)
    second, second_tokenizer = encoder.model.text, encoder.tokenizer
    read = encode_by_two((first, second), (tokenizer, second_tokenizer), texts).tokens
    carried, explained = least_squares(read.flatten(0, 1), encode_text(first, tokenizer, texts)[0].flatten(0, 1))
    parts = {
        "vae": load_vae(BASE),
        "text_encoder": first,
        "tokenizer": tokenizer,
        "text_encoder_2": second,
        "tokenizer_2": second_tokenizer,
        "unet": in_sdxl_form(load_unet(EDITOR), carried, second.config.projection_dim),
        "scheduler": load_scheduler(EDITOR),
    }
    save_pipeline(out, "StableDiffusionXLInstructPix2PixPipeline", parts, EMPTY_TEXT)
    return explained


def main(arguments: list[str] | None = None) -> None:
    """Write the folder and say how well the old reading is guessed from the new one."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagebind", required=True, help="run or folder of the tiny ImageBind")
    parser.add_argument("--data", required=True, type=Path, help="YAML with the data whose texts are read")
    parser.add_argument("--out", required=True, type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    with one_line_errors():
        batches = itertools.islice(split_batches(options.data, "val"), NUM_BATCHES)
        texts = [text for batch in batches for field in ("instruction", "target_caption") for text in batch[field]]
        explained = write_sdxl(options.imagebind, ["", *texts], options.out)
    told = f"{100 * explained:.1f} % of the states that it has read so far are in those that it reads now"
    console.print(f"{options.out}: {told} ({len(texts) + 1} texts)")


if __name__ == "__main__":
    main()
