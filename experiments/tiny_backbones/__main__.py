"""Remake assets/tiny: `python -m experiments.tiny_backbones` (or `make tiny-backbones`).

Runs the commands of assets/tiny/README.md one after the other: tokenizers, made of the committed words, then training
and export of each part in the order in which they need each other. A run that is complete is not trained again, samples
that are there are not drawn again; an interrupted run is continued.
`--only clip lm` remakes some parts, `--list` says what would run.
"""

import argparse
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.shard_index import INDEX_FILE
from datamodules.tinyworld.world import KINDS
from mmig.base.commands import OptionParser

logger = logging.getLogger(__name__)
ASSETS = "assets/tiny"
DATA, TRAINED_ON = "configs/data/plain.yaml", "configs/data/literal.yaml"
GENERATOR = ["--config", "configs/styleclip/tinyworld_gan.yaml", "--config", "configs/data/centred.yaml"]
GENERATOR += ["--data.init_args.global_batch_size", "16"]
FALLING = ["--model.init_args.optimizer.lr", "2e-3", "--model.init_args.optimizer.schedule", "cosine"]
FALLING += ["--model.init_args.seed", "1", "--data.init_args.seed", "1", "--ema.decay", "0.9995"]
FALLING += ["--trainer.max_steps", "18000"]
HERE = "experiments.tiny_backbones"
Command = list[str]


def commands() -> dict[str, list[Command]]:
    """Arguments of the Python interpreter for every part, in order."""

    def fit(config: str, run: str, *arguments: str) -> Command:
        return ["train.py", "fit", "--config", f"configs/tiny/{config}.yaml", "--name", run, *arguments]

    def export(part: str, run: str, *arguments: str) -> Command:
        return ["-m", f"{HERE}.export", part, f"runs/{run}", "--out", ASSETS, *arguments]

    def draw(kind: str, split: str, count: int) -> Command:
        sizes = ["--kinds", kind, "--split", split, "--count", str(count)]
        return ["-m", "datamodules.tinyworld", "--level", "plain", *sizes, "--out", f"data/llava/{split}-{kind}"]

    def draw_sounds(split: str, count: int) -> Command:
        sizes = ["--split", split, "--count", str(count)]
        return ["-m", "datamodules.tinyworld", "--world", "sounds", *sizes, "--out", f"data/sounds/{split}"]

    return {
        "tokenizers": [["-m", f"{HERE}.tokenizers", "--out", ASSETS]],
        "vae": [
            *(fit("vae", "tiny-vae"), export("vae", "tiny-vae", "--data", DATA)),
            ["-m", "mmig.evaluation.domain", "--vae", f"{ASSETS}/stable-diffusion", "--data", TRAINED_ON],
        ],
        "clip": [fit("clip", "tiny-clip"), export("clip", "tiny-clip")],
        "clip-eval": [fit("clip_eval", "tiny-clip-eval"), export("clip-eval", "tiny-clip-eval")],
        "lm": [fit("lm", "tiny-lm"), export("lm", "tiny-lm")],
        "drawing": [fit("drawing", "tiny-drawing"), export("unet", "tiny-drawing")],
        "editing": [
            *(fit("editing", "tiny-editing"), export("unet", "tiny-editing")),
            *(fit("editing_instruction", "tiny-instruction"), export("unet", "tiny-instruction")),
        ],
        "llava": [
            ["-m", "datamodules.tinyworld", "--config", "configs/tiny/clip.yaml"],
            *(draw(kind, "train", 60000) for kind in ("visual", "inferable")),
            *(draw(kind, "val", 200) for kind in KINDS),
            *(draw(kind, "test", 400) for kind in KINDS),
            fit("llava", "tiny-llava"),
            *(fit("llava_odd", "tiny-llava-odd", "--init_from", "runs/tiny-llava"), export("llava", "tiny-llava-odd")),
        ],
        "imagebind": [
            *(draw_sounds(split, count) for split, count in (("train", 20000), ("val", 200), ("test", 1000))),
            *(fit("imagebind", "tiny-imagebind"), export("imagebind", "tiny-imagebind")),
        ],
        "captioner": [fit("captioner", "tiny-captioner"), export("captioner", "tiny-captioner")],
        "gan": [
            ["train.py", "fit", *GENERATOR, "--name", "gan-first"],
            ["train.py", "fit", *GENERATOR, "--name", "gan", "--init_from", "runs/gan-first", *FALLING],
            export("gan", "gan"),
        ],
    }


def _is_drawn(command: Command) -> bool:
    """Whether it draws samples into a folder that has them: there it would refuse."""
    return "--count" in command and (Path(command[-1]) / INDEX_FILE).exists()


def main(args: Sequence[str] | None = None) -> None:
    """Run the commands of the chosen parts; stops at the first that fails, with its exit status."""
    steps = commands()
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=steps, default=list(steps), help="parts to remake")
    parser.add_argument("--list", action="store_true", help="print the commands, run nothing")
    arguments = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for part in (name for name in steps if name in arguments.only):
        for command in steps[part]:
            if arguments.list:
                print("python", *command)
                continue
            if _is_drawn(command):
                continue
            logger.info("== %s: python %s", part, " ".join(command))
            status = subprocess.run([sys.executable, *command], check=False).returncode
            if status:
                parser.exit(status, f"error: {part}: `python {' '.join(command)}` failed with status {status}\n")


if __name__ == "__main__":
    main()
