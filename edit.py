"""Edit one image with one instruction, or draw one; pictures and sounds may be attached.

Examples:
    python edit.py --checkpoint runs/NAME --image IN.png --instruction "make the ball blue" --out OUT.png
    python edit.py --config configs/editors/oracle_text.yaml --instruction "a red circle" --out OUT.png
"""

import argparse

from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.processor import share_cores


def build_parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to show its help."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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


def main(arguments: list[str] | None = None) -> None:
    """Run edit.py; what a user can mend ends in one line, not in a traceback (MMIG_TRACEBACK=1 shows it)."""
    parsed = build_parser().parse_args(arguments)
    share_cores()
    with one_line_errors():
        from mmig.run.edit import run

        run(parsed)


if __name__ == "__main__":
    main()
