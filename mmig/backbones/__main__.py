"""Command line: `python -m mmig.backbones fetch --config FILE [--config FILE ...] [--to DIR]`, `... fingerprint PATH
[--part NAME]`, `... convert-original FILE --like PATH --out DIR [--weights average|trained]`, `... convert-imagebind
FILE --tokenizer PATH --out DIR`, `... write-original PATH --out FILE`.
"""

import argparse
import sys
from pathlib import Path

from mmig.backbones.fetch import fetch, read_references
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.parts import PARTS, BackboneError
from mmig.base.commands import OptionParser, one_line_errors


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parse(arguments)
    try:
        if options.command == "fingerprint":
            print(fingerprint(options.path, options.part))
            return 0
        if options.command == "convert-original":
            from mmig.backbones.original import convert_original  # needs torch, as the others do not

            print(f"{options.file} -> {convert_original(options.file, options.like, options.out, options.weights)}")
            return 0
        if options.command == "write-original":
            from mmig.backbones.to_original import write_original

            print(f"{options.path} -> {write_original(options.path, options.out)}")
            return 0
        if options.command == "convert-imagebind":
            from mmig.backbones.original_imagebind import convert_imagebind

            print(f"{options.file} -> {convert_imagebind(options.file, options.tokenizer, options.out)}")
            return 0
        return _fetch_all(options.config, options.to)
    except BackboneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(prog="python -m mmig.backbones", description="Fetch, identify and convert pretrained parts.")
    commands = parser.add_subparsers(dest="command", required=True)
    fetching = commands.add_parser("fetch", help="download every backbone that configs name, check local folders")
    fetching.add_argument(
        "--config", action="append", required=True, type=Path, metavar="FILE", help="config (repeatable)"
    )
    fetching.add_argument(
        "--to", type=Path, metavar="DIR", help="shared folder, later HF_HOME of the jobs (default: HF_HOME)"
    )
    naming = commands.add_parser("fingerprint", help="print the fingerprint of a model folder or hub id")
    naming.add_argument("path", help="hub id or local folder")
    naming.add_argument("--part", choices=sorted(PARTS), help="which part of it")
    converting = commands.add_parser("convert-original", help="write a checkpoint of the original code as a folder")
    converting.add_argument(
        "file",
        type=Path,
        help=".ckpt or .safetensors: Stable Diffusion 1.x, InstructPix2Pix, an autoencoder alone",
    )
    converting.add_argument(
        "--like",
        required=True,
        help="hub id or folder of a pipeline of its sizes: gives configurations, tokenizer, scheduler",
    )
    converting.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    converting.add_argument(
        "--weights", choices=("average", "trained"), default="average", help="of the UNet (default: their average)"
    )
    writing = commands.add_parser("write-original", help="write a pipeline or an autoencoder as the original code does")
    writing.add_argument("path", help="hub id or folder in diffusers' layout, or a run")
    writing.add_argument("--out", required=True, type=Path, metavar="FILE", help="a new .ckpt or .safetensors")
    binding = commands.add_parser("convert-imagebind", help="write ImageBind's published file as a folder")
    binding.add_argument("file", type=Path, help="imagebind_huge.pth")
    binding.add_argument(
        "--tokenizer", required=True, help="hub id or folder of CLIP's tokenizer (openai/clip-vit-large-patch14)"
    )
    binding.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    return parser.parse_args(arguments)


def _fetch_all(configs: list[Path], to: Path | None) -> int:
    references, failures = read_references(configs), 0
    for reference in references:
        try:
            for part, place in zip(reference.parts, fetch(reference, to and to / "hub"), strict=True):
                print(f"{part.name}: {reference.path} -> {place}")
        except BackboneError as error:
            print(f"error: {error}", file=sys.stderr)
            failures += 1
    if failures:
        print(f"{failures} of {len(references)} backbones are missing", file=sys.stderr)
        return 1
    if not references:
        print("the configs name no backbone")
        return 0
    home = f"HF_HOME={to.resolve()} " if to else ""
    print(f"{len(references)} backbones are local; run the jobs with {home}HF_HUB_OFFLINE=1")
    return 0


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
