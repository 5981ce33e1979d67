r"""Measure an exported editing UNet on held-out samples: success and preservation by edit type.

`python -m experiments.tiny_backbones.score_edits --unet assets/tiny/instruct-pix2pix --text instruction \
    --data configs/data/tinyworld.yaml --split test`

What is right is decided by the data set's judge, handed in by its class path. The overall figures leave the
visual instructions out, which cannot be followed from a text alone.
"""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datamodules.schema import Batch
from experiments.tiny_backbones.scoring import ASSETS, held_out, options
from mmig.base.commands import one_line_errors

if TYPE_CHECKING:
    from mmig.methods.instruct_pix2pix.pipeline import InstructPix2PixPipeline
    from mmig.metrics.judge import Judge

JUDGE = "datamodules.tinyworld.judge.TinyWorldJudge"
VISUAL = "visual"


def score_edits(
    pipeline: "InstructPix2PixPipeline", batches: Iterable[Batch], judge: "Judge", seed: int = 0
) -> dict[str, tuple[float, float, int]]:
    """(success, preservation, samples) by edit type, and over all non-visual types under "non-visual"."""
    from mmig.training.rng import generator

    verdicts: dict[str, list[tuple[float, float]]] = {}
    for batch in batches:
        output = pipeline(batch, [generator(seed, "score", key) for key in batch["key"]])
        for image, metadata, kind in zip(output.images, batch["metadata"], batch["edit_type"], strict=True):
            scores = judge(image, metadata)
            verdicts.setdefault(kind, []).append((scores["success"], scores["preservation"]))
    together = [pair for kind, pairs in verdicts.items() if kind != VISUAL for pair in pairs]
    table = dict(sorted(verdicts.items())) | {"non-visual": together}
    return {
        kind: (sum(a for a, _ in pairs) / len(pairs), sum(b for _, b in pairs) / len(pairs), len(pairs))
        for kind, pairs in table.items()
        if pairs
    }


def main(args: Sequence[str] | None = None) -> None:
    """Score an exported UNet and print its table."""
    parser = options(__doc__)
    parser.add_argument("--backbone", type=Path, default=ASSETS / "stable-diffusion")
    parser.add_argument("--unet", type=Path, default=ASSETS / "instruct-pix2pix")
    parser.add_argument("--text", choices=("instruction", "response", "target_caption"), default="instruction")
    parser.add_argument("--judge", default=JUDGE, help="class of a judge, see mmig/metrics/judge.py")
    parser.add_argument("--text-scale", type=float, default=4.0)
    parser.add_argument("--image-scale", type=float, default=1.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(args)
    from mmig.metrics.judge import load_judge

    with one_line_errors():
        judge = load_judge(arguments.judge)
        table = score_edits(_pipeline(arguments), held_out(arguments), judge, arguments.seed)
    print(f"{'edit type':14s} {'success':>8s} {'preserved':>10s} {'n':>5s}")  # noqa: T201, the result of the command
    for kind, (success, preservation, count) in table.items():
        print(f"{kind:14s} {success:8.3f} {preservation:10.3f} {count:5d}")  # noqa: T201


def _pipeline(arguments: argparse.Namespace) -> "InstructPix2PixPipeline":
    from mmig.methods.instruct_pix2pix.pipeline import EditSampling, open_editor

    sampling = EditSampling(arguments.steps, arguments.text_scale, arguments.image_scale)
    return open_editor(str(arguments.unet), str(arguments.backbone), arguments.text, sampling)


if __name__ == "__main__":
    main()
