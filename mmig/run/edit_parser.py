"""The command line of edit.py, which the app parses too. Nothing heavy is imported, to show its help."""

import argparse

from mmig.base.commands import OptionParser, positive


def build_parser(description: str = "") -> argparse.ArgumentParser:
    """The command line, under a description of the program."""
    parser = OptionParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    used = parser.add_mutually_exclusive_group(required=True)
    used.add_argument(
        "--checkpoint", help="run directory, a checkpoint or .safetensors file of one, or an exported folder"
    )
    used.add_argument("--config", metavar="YAML", help="edit without a run: its section `editor`, or `model` untrained")
    parser.add_argument("--image", help="the image to edit; methods that draw need none")
    parser.add_argument("--instruction", required=True, help="what to do, in words; <image:0> is the first attachment")
    parser.add_argument(
        "--attach",
        action="append",
        default=[],
        metavar="KIND=FILE",
        help="a picture (image=FILE) or sound (audio=FILE) that the instruction is about; again for more",
    )
    parser.add_argument(
        "--response",
        help="description of the goal image (default: the model writes it; what only draws takes the instruction)",
    )
    parser.add_argument("--out", required=True, help="where the edited image goes (.png)")
    parser.add_argument("--show-attention", metavar="PNG", help="draw where the model looked for each concept (MMIG)")
    parser.add_argument("--seed", type=int, default=0, help="sampling seed (default: 0)")
    parser.add_argument("--steps", type=positive, help="denoising steps (default: the method's)")
    parser.add_argument(
        "--sampling", nargs="+", default=[], metavar="NAME=VALUE", help="other sampling settings, as guidance_scale=5"
    )
    parser.add_argument(
        "--resolution",
        type=positive,
        help="longer side in pixels that the model edits at or draws (default: the run's)",
    )
    parser.add_argument("--no-ema", action="store_true", help="use the trained weights instead of their average")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    layers = parser.add_argument_group("layered edits (MMIG)")
    layers.add_argument(
        "--layered",
        action="store_true",
        help="first fit the embeddings of object and background to the image, then edit under both; "
        "--sampling inner_steps=100 fits with 100 steps in place of 500",
    )
    layers.add_argument("--object-phrase", metavar="TEXT", help="the object in the goal (default: from the response)")
    layers.add_argument("--background-phrase", metavar="TEXT", help="the rest of the goal (default: from the response)")
    layers.add_argument("--mask", metavar="PNG", help="white where the object is in the image (default: everywhere)")
    return parser
