"""Command line: `python -m mmig.methods.instruct_any2pix convert-WHAT SOURCE --out DIR`; see `released`."""

import argparse
import sys
from pathlib import Path

from mmig.backbones.parts import BackboneError
from mmig.base.commands import OptionParser, one_line_errors

SOURCES = {
    "convert-prior": "prior/model.bin as a folder with `prior`",
    "convert-language": "llm-retrained/ as a folder with `llm` and `vector_projectors`",
    "convert-decoder": "sdxl/unet with projector_unclip among its weights, as a decoder",
    "convert-ip-adapter": "ip_adapter_global_local_2_view.bin as a decoder",
    "convert-aesthetic": "sac+logos+ava1-l14-linearMSE.pth as a folder with `aesthetic`",
}
VIEWS = ("whole", "part")
WITH_BACKBONE = ("convert-decoder", "convert-ip-adapter")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parse(arguments)
    try:
        out = _convert(options)
    except BackboneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.source} -> {out}")
    return 0


def _convert(options: argparse.Namespace) -> Path:
    from mmig.backbones.diffusion import load_both_text_encoders  # heavy: not for --help
    from mmig.diffusion.sdxl import encode_by_two
    from mmig.methods.instruct_any2pix import released

    if options.command == "convert-ip-adapter":
        texts = encode_by_two(*load_both_text_encoders(options.backbone), [options.text, options.null_text])
        return released.convert_ip_adapter(options.source, options.backbone, texts, options.out, options.view)
    if options.command == "convert-decoder":
        return released.convert_decoder(options.source, options.backbone, options.out)
    convert = {
        "convert-prior": released.convert_prior,
        "convert-language": released.convert_language,
        "convert-aesthetic": released.convert_aesthetic,
    }[options.command]
    return convert(options.source, options.out)


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(prog="python -m mmig.methods.instruct_any2pix", description="Released weights as folders.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, about in SOURCES.items():
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("source", type=Path, help="the file or folder")
        command.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
        if name in WITH_BACKBONE:
            command.add_argument("--backbone", required=True, help="hub id or folder of SDXL")
        if name == "convert-ip-adapter":
            command.add_argument("--text", default="best quality, high quality", help="of every picture")
            command.add_argument("--null-text", default="monochrome, lowres", help="of no condition")
            command.add_argument(
                "--view", choices=VIEWS, default="whole", help="of a whole picture, or of a part of one"
            )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
