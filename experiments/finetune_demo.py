"""Fine-tuning on the small world: `outline`, an edit that the tiny backbones were never trained on.

Writes the data, trains the decoder (configs/finetune/outline_decoder.yaml) and the denoiser (outline.yaml), evaluates
outline and the other edit types before and after on the same samples with the same noise, and prints paired
differences. `--short` does the same in a few steps, for tests.
"""

import argparse
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

import yaml

from experiments.demo import console, run
from mmig.base.commands import OptionParser, positive

CONFIG = "configs/finetune/outline.yaml"
DECODER = "configs/finetune/outline_decoder.yaml"
PRETRAINED = "assets/tiny/stable-diffusion"
VAE = "--model.init_args.backbones.vae"
WORLD = {"outline": ("outline", 1, 3000), "others": ("train", 1, 3500), "removals": ("removals", 1, 500)}
"""Folder below the data's, split of the small world, seed (other seeds of a split are other samples) and how many: more
ordinary edits than outlines, so that those are not forgotten, and more removals among them, since an outlined picture
keeps its objects."""
TESTS = ("outline_test", "test")
"""Splits that are tested on: the new edit type, and the ordinary ones."""


def write_data(root: Path, most: int | None = None) -> None:
    """Write what is trained on, at most so many of a kind: all kinds in one folder of shards."""
    mixed = root / "mixed"
    mixed.mkdir(parents=True, exist_ok=True)
    for folder, (split, seed, count) in WORLD.items():
        run(
            f"Samples of the small world: {folder}",
            *("-m", "datamodules.tinyworld", "--level", "plain", "--out", f"{root}/{folder}", "--split", split),
            *("--count", str(min(count, most or count)), "--seed", str(seed)),
        )
        for shard in sorted((root / folder).glob("*.tar")):
            shard.replace(mixed / f"{folder}-{shard.name}")
        shutil.rmtree(root / folder)
    run("All in one folder", "-m", "datamodules.shards", "index", str(mixed))


def fit(name: str, root: Path, config: str, *more: str) -> None:
    """Train one run on the mixed samples."""
    given = ("--data.init_args.train", str(root / "mixed"))
    run(f"Training {name}", "train.py", "fit", "--config", config, "--name", name, *given, *more)


def fit_decoder(name: str, root: Path, *more: str) -> None:
    """Train the decoder and write it below the data's folder."""
    fit(name, root, DECODER, *more)
    out = str(root / "decoder")
    run("The new decoder as a folder", "-m", "mmig.run.export", "--checkpoint", f"runs/{name}", "--out", out)


def fit_denoiser(name: str, root: Path, *more: str) -> None:
    """Train the denoiser for the new decoder, on what the frozen parts make of the samples, computed once."""
    features, vae = str(root / "features"), (VAE, str(root / "decoder"))
    given = ("--data.init_args.train", str(root / "mixed"), "--out", features, "--batch_size", "32")
    run("Features of the frozen parts", "-m", "mmig.run.cache", "--config", CONFIG, *given, *vae)
    fit(name, root, CONFIG, "--data.init_args.features", features, *vae, *more)


def write_before(folder: Path) -> Path:
    """A configuration of the pretrained models as they are, their own decoder among them; returns its file."""
    model = yaml.safe_load(Path(CONFIG).read_text(encoding="utf-8"))["model"]
    model["init_args"]["backbones"]["vae"] = PRETRAINED
    path = folder / "before.yaml"
    path.write_text(yaml.safe_dump({"model": model}), encoding="utf-8")
    return path


def evaluate(scored: Sequence[str], name: str, split: str, data: str, limit: int, *more: str) -> None:
    """Evaluate a run or configuration on a split; all see the same samples with the same noise."""
    run(
        f"Evaluation of {name}: {split}",
        *("evaluate.py", *scored, "--data", data, "--split", split, "--limit", str(limit)),
        *("--metrics", "success", "preservation", "--out", f"runs/{name}/{split}", *more),
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the demo."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps and samples only, as the tests run it")
    parser.add_argument("--name", default="finetune", help="name of the run below runs/ (default: finetune)")
    parser.add_argument(
        "--root", type=Path, default=Path("data/finetune"), help="folder of the training data; must hold none yet"
    )
    parser.add_argument("--data", default="configs/data/finetune.yaml", help="the small world that is tested on")
    parser.add_argument("--limit", type=positive, default=256, help="test samples a split (default: 256)")
    parser.add_argument("--sampling", nargs="+", default=[], metavar="NAME=VALUE", help="as of evaluate.py")
    options = parser.parse_args(arguments)
    start, before, limit = time.monotonic(), f"{options.name}-before", 4 if options.short else options.limit
    short = ["--trainer.max_steps", "2"] if options.short else []
    sampling = ["--sampling", *options.sampling] if options.sampling else []
    write_data(options.root, 16 if options.short else None)
    untouched = ("--config", str(write_before(options.root)))
    fit_decoder(f"{options.name}-decoder", options.root, *short)
    fit_denoiser(options.name, options.root, *short)
    for split in TESTS:
        evaluate(untouched, before, split, options.data, limit, *sampling)
        tuned = ("--checkpoint", f"runs/{options.name}")
        evaluate(tuned, options.name, split, options.data, limit, *sampling, "--compare", f"runs/{before}/{split}")
    console.rule(f"[bold]Done in {time.monotonic() - start:.0f} s", align="left")
    console.print(f"pictures   runs/{options.name}/outline_test/grid.png")
    console.print(
        f"a folder for diffusers, updates merged:  python -m mmig.run.export --checkpoint runs/{options.name} --out DIR"
    )


if __name__ == "__main__":
    main()
