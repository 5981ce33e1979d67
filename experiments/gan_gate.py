"""Whether a generator of centred scenes draws what the oracle can read: the gate before its edits are compared.

    python -m experiments.gan_gate RUN [--count 500] [--truncation 1.0] [--out FILE.png]

RUN is a run of `StyleGANModule` or a generator's folder. Pictures come to 64 pixels as those of editors do. At least 80
% have to be read as a centred scene of level plain, else a comparison of editors of these pictures says nothing, and
the command fails.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid

from datamodules.tinyworld.centred_reader import read_centred
from datamodules.tinyworld.scene import SIDE
from experiments.demo import console
from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.files import replacing
from mmig.evaluation.pictures import to_pil
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.loading import load_generator
from mmig.metrics.images import resized_signed

GATE = 0.8
BATCH = 50
SHOWN = 8  # pictures a side of the figure


@torch.no_grad()
def drawn(generator: StyleGenerator, count: int, truncation: float, seed: int) -> Tensor:
    """Pictures [count,3,64,64] in [-1,1]."""
    z = torch.randn(count, generator.config.z_dim, generator=torch.Generator().manual_seed(seed))
    torch.manual_seed(seed)  # the noise of its layers
    images = torch.cat([generator(generator.codes(each, truncation)) for each in z.split(BATCH)]).clamp(-1, 1)
    return resized_signed(images, (SIDE, SIDE))


def save_figure(images: Tensor, path: Path) -> None:
    """The first pictures side by side."""
    side = min(SHOWN, int(len(images) ** 0.5))
    (figure,) = to_pil(make_grid(images[: side * side], side, padding=0)[None])
    with replacing(path) as partial:
        figure.save(partial, format="PNG")


def main(arguments: list[str] | None = None) -> None:
    """Draw, read, and say how many were read, and as what."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="run or folder of the generator")
    parser.add_argument("--count", type=positive, default=500, help="pictures (default: 500)")
    parser.add_argument("--truncation", type=float, default=1.0, help="psi (default: 1.0)")
    parser.add_argument("--seed", type=int, default=0, help="of codes and noise (default: 0)")
    parser.add_argument("--out", type=Path, help="figure of the first pictures")
    options = parser.parse_args(arguments)
    with one_line_errors():
        images = drawn(load_generator(options.run), options.count, options.truncation, options.seed)
    if options.out is not None:
        save_figure(images, options.out)
    scenes = [scene for scene in map(read_centred, images) if scene is not None]
    share = len(scenes) / len(images)
    passed = "passed" if share >= GATE else "not passed"
    console.print(f"read: {100 * share:.1f} % of {len(images)}; the gate of {100 * GATE:.0f} % is {passed}")
    for name in ("shape", "colour", "size"):
        seen = Counter(getattr(scene.things[0], name) for scene in scenes).most_common()
        console.print(f"{name}: {', '.join(f'{value} {number}' for value, number in seen) or 'none'}")
    if share < GATE:
        sys.exit(1)


if __name__ == "__main__":
    main()
