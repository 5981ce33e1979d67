"""Write the UNet of a run as the published InstructPix2Pix folder: unet/ and scheduler/ in half precision.

`python -m mmig.methods.instruct_pix2pix.export RUN --out assets/tiny/instruct-pix2pix`
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule


def export(module: "InstructPix2PixModule", out: Path) -> Path:
    """Write `out`/unet and `out`/scheduler; autoencoder and text encoder stay those of the module's backbone."""
    from mmig.dem.saving import save_half, save_scheduler

    save_half(module.unet, out / "unet")
    save_scheduler(module.scheduler, out / "scheduler")
    return out


def main(args: Sequence[str] | None = None) -> None:
    """Export the averaged weights of a run's newest checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run directory or checkpoint file")
    parser.add_argument("--out", type=Path, required=True, help="root of the InstructPix2Pix folder")
    arguments = parser.parse_args(args)
    from mmig.checkpoint import load_module
    from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule

    try:
        module = load_module(arguments.run)
        if not isinstance(module, InstructPix2PixModule):
            raise ValueError(f"{arguments.run}: expected an InstructPix2PixModule, found {type(module).__name__}")
        print(export(module, arguments.out))  # noqa: T201, the result of the command
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    main()
