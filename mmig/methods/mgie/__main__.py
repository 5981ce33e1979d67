"""Command line: `python -m mmig.methods.mgie convert-released --mllm FILE --unet FILE --llava DIR --backbone PATH --out
DIR [--vision PATH] [--dtype float32|bfloat16]`.
"""

import argparse
import sys
from pathlib import Path

from mmig.backbones.parts import BackboneError
from mmig.base.commands import OptionParser, one_line_errors


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parse(arguments)
    from mmig.methods.mgie.released import convert_released  # heavy: not for --help

    try:
        out = convert_released(
            options.mllm,
            options.unet,
            options.llava,
            options.backbone,
            options.out,
            vision=options.vision,
            dtype=options.dtype,
        )
    except BackboneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.mllm} and {options.unet} -> {out}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(prog="python -m mmig.methods.mgie", description="The released MGIE as a folder that edits.")
    commands = parser.add_subparsers(dest="command", required=True)
    converting = commands.add_parser("convert-released", help="write apple/ml-mgie's weights as an exported folder")
    converting.add_argument("--mllm", required=True, type=Path, metavar="FILE", help="mllm.pt")
    converting.add_argument("--unet", required=True, type=Path, metavar="FILE", help="unet.pt")
    converting.add_argument("--llava", required=True, metavar="DIR", help="LLaVA-7B-v1 in its original code's layout")
    converting.add_argument(
        "--backbone",
        required=True,
        help="hub id or folder of a pipeline: autoencoder, scheduler, sizes of the UNet (timbrooks/instruct-pix2pix)",
    )
    converting.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    converting.add_argument("--vision", help="hub id or folder of the image tower's CLIP (default: as LLaVA names it)")
    converting.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="in which the folder's frozen language model is opened (default: float32, which holds float16 exactly)",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
