"""Command line: `python -m mmig.methods.styleclip convert-generator FILE --out DIR`, and `... directions --generator
PATH --clip PATH --out DIR`, which several processes may run at once: under torchrun chunk i is rank i % WORLD_SIZE's.
"""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path

from mmig.base.commands import OptionParser, one_line_errors


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parse(arguments)
    if options.command == "convert-generator":
        from mmig.methods.styleclip.published import convert_generator  # heavy: not for --help

        print(f"{options.file} -> {convert_generator(options.file, options.out)}")
        return 0
    return _directions(options)


def _directions(options: argparse.Namespace) -> int:
    from mmig.base.batches import process_device
    from mmig.methods.styleclip.direction_editor import direction_parts
    from mmig.methods.styleclip.relevance import DirectionSettings, measure

    given = {item.name: getattr(options, item.name) for item in fields(DirectionSettings)}
    settings = DirectionSettings(**{name: value for name, value in given.items() if value is not None})
    device = process_device(options.device)
    generator, clip, facts = direction_parts(options.generator, options.clip, options.clip_normalise)
    rank, num_ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    missing = measure(generator.to(device), clip.to(device), options.out, facts, settings, rank, num_ranks)
    print(f"{options.out}: {'complete' if not missing else f'{missing} chunks are left to other ranks'}")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = OptionParser(prog="python -m mmig.methods.styleclip", description="Parts of StyleCLIP.")
    commands = parser.add_subparsers(dest="command", required=True)
    converting = commands.add_parser("convert-generator", help="write a published StyleGAN2 as a folder")
    converting.add_argument("file", type=Path, help="rosinality's .pt, or the state dict of NVIDIA's G_ema")
    converting.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder")
    measuring = commands.add_parser("directions", help="measure what each channel of style space does")
    measuring.add_argument("--generator", required=True, help="folder or run of a generator")
    measuring.add_argument("--clip", required=True, help="open_clip folder or hub id; never the one that judges")
    measuring.add_argument("--out", required=True, type=Path, metavar="DIR", help="shared by all processes")
    measuring.add_argument("--clip-normalise", action="store_true", help="give CLIP its mean and deviation")
    measuring.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:1")
    for name in ("num-codes", "num-images", "max-side", "cutoff", "chunk", "seed"):
        measuring.add_argument(f"--{name}", type=int, metavar="N")
    for name in ("distance", "truncation"):
        measuring.add_argument(f"--{name}", type=float, metavar="X")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with one_line_errors():
        sys.exit(main())
