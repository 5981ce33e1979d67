"""`make demo`: every step of an experiment on the small world, with the commands that a user would type.

Writes shards, trains MMIG's stage 1, evaluates it on held-out samples, compares it with the same model without its
mutual support module, and says where pictures, numbers and logs are. `--short` does the same in a minute, for tests.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console

from mmig.base.commands import OptionParser

ROOT = Path(__file__).resolve().parent.parent
console = Console(highlight=False)


def run(title: str, *command: str) -> None:
    """Show and run one command; a failure ends the demo with its exit code."""
    console.rule(f"[bold]{title}", align="left")
    console.print("$ python " + shlex.join(command), style="dim")
    start = time.monotonic()
    result = subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
    if result.returncode != 0:
        console.print(f"the demo stopped: this command ended with exit code {result.returncode}", style="red")
        sys.exit(result.returncode)
    console.print(f"{time.monotonic() - start:.0f} s\n", style="dim")


def main(arguments: list[str] | None = None) -> None:
    """Run the demo."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps only, as the tests run it")
    parser.add_argument("--name", default="demo", help="name of the run below runs/ (default: demo)")
    parser.add_argument("--data", default="configs/data/demo.yaml", help="data configuration, with the shards' folder")
    options = parser.parse_args(arguments)
    steps = ["--trainer.max_steps", "4", "--trainer.val_check_interval", "2"] if options.short else []
    run_directory, data = f"runs/{options.name}", options.data
    start = time.monotonic()
    run(
        "The small world: samples of which every right answer is known", "-m", "datamodules.tinyworld", "--config", data
    )
    run(
        "Training stage 1: MMSM alone, everything else frozen",
        *("train.py", "fit", "--config", "configs/demo/stage1.yaml", "--config", data),
        *("--name", options.name, *steps),
    )
    run(
        "Evaluation on held-out samples (responses given by the data)",
        *("evaluate.py", "--checkpoint", run_directory, "--data", data, "--split", "test"),
        *("--seeds", "1", "--out", f"{run_directory}/evaluation"),
    )
    run(
        "What MMSM is worth: held-out noise loss",
        *(
            "-m",
            "experiments.ablation",
            "--checkpoint",
            run_directory,
            "--data",
            data,
            "--split",
            "val",
            "--draws",
            "4",
        ),
    )
    console.rule(f"[bold]Done in {time.monotonic() - start:.0f} s", align="left")
    console.print(f"pictures     {run_directory}/evaluation/grid.png")
    console.print(f"numbers      {run_directory}/evaluation/metrics.json")
    console.print(f"log          tensorboard --logdir {run_directory}")
    console.print(
        f"edit a picture of your own:  python edit.py --checkpoint {run_directory} --image IN.png "
        '--instruction "make the circle red" --out OUT.png'
    )


if __name__ == "__main__":
    main()
