"""`make chain-demo`: MMIG's five stages in order on the small world, each from the last, then the tables.

Beside the five stages stand stage 5 without MMSM, and the same editing UNet trained for as many steps on the raw
instruction alone (InstructPix2Pix). Every row is shown with given and with generated responses where it has any.
`--short` does the same with a few steps, for tests; `--steps` and `--limit` make it longer.
"""

import argparse
import time
from collections.abc import Sequence

from experiments.chain_report import LAST, METRICS, NUM_STAGES, ROWS, TRAINS_UNET, Chains, Row, tables
from experiments.demo import console, run
from mmig.base.commands import OptionParser, positive

STEPS, LIMIT = (40, 300, 40, 40, 40), 32
"""Steps of each stage and test samples: 20 minutes on two cores. Seeing is learnt in stage 2, whose steps are cheap."""


def fit(config: str, data: str, run_name: str, before: str | None, seed: int, steps: int, *more: str) -> None:
    """Train one run.

    Args:
        config: name of a configuration in configs/demo.
        data: path of a data configuration.
        run_name: name below runs/.
        before: name of the run that it starts from.
        seed: of all that is drawn.
        steps: of training.
        more: further arguments of train.py.
    """
    own, length = str(seed), str(steps)
    run(
        f"Training {run_name}",
        *("train.py", "fit", "--config", f"configs/demo/{config}.yaml", "--config", data, "--name", run_name),
        *("--seed_everything", own, "--model.init_args.seed", own, "--data.init_args.seed", own),
        *("--trainer.max_steps", length, "--trainer.val_check_interval", length, *more),
        *(["--init_from", f"runs/{before}"] if before else []),
    )


def train_chain(chain: str, data: str, seed: int, steps: Sequence[int]) -> None:
    """Train the five stages, each for its steps, and the baseline on the samples of those that train the UNet."""
    before = None
    for stage in range(1, NUM_STAGES + 1):
        name = f"{chain}-stage{stage}"
        fit(f"stage{stage}", data, name, before, stage_seed(seed, stage), steps[stage - 1])
        before = name
    before = None
    for stage in TRAINS_UNET:
        name = f"{chain}-instruction{stage}"
        fit("instruct_pix2pix", data, name, before, stage_seed(seed, stage), steps[stage - 1])
        before = name


def stage_seed(seed: int, stage: int) -> int:
    """Seed of a stage: each begins a new stream, and with one seed all would see the same samples and noise."""
    return NUM_STAGES * seed + stage - 1


def evaluate(row: Row, chain: str, data: str, limit: int, seeds: int) -> None:
    """Evaluate one row of the tables; every row sees the same samples with the same noise."""
    run(
        f"Evaluation of {row.title}" + (f", responses {row.responses}" if row.responses else ""),
        *("evaluate.py", "--checkpoint", row.run_directory(chain), "--data", data, "--split", "test"),
        *("--limit", str(limit), "--seeds", str(seeds), "--metrics", *METRICS, "--out", row.folder(chain)),
        *row.sampling,
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the chain demo."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps and samples only, as the tests run it")
    parser.add_argument("--name", default="chain", help="beginning of the runs' names (default: chain)")
    parser.add_argument("--data", default="configs/data/demo.yaml", help="data configuration, with the shards' folder")
    parser.add_argument(
        "--steps",
        type=positive,
        nargs="+",
        default=STEPS,
        help=f"of all stages, or of each (default: {' '.join(map(str, STEPS))})",
    )
    parser.add_argument("--limit", type=positive, default=LIMIT, help=f"test samples (default: {LIMIT})")
    parser.add_argument("--seeds", type=positive, default=1, help="sampling seeds (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings (default: 0)")
    options = parser.parse_args(arguments)
    if len(options.steps) not in (1, NUM_STAGES):
        parser.error(f"--steps: expected one number or {NUM_STAGES}, found {len(options.steps)}")
    start = time.monotonic()
    run("The small world", "-m", "datamodules.tinyworld", "--config", options.data)
    steps, limit = ([2], 4) if options.short else (options.steps, options.limit)
    train_chain(options.name, options.data, options.seed, [*steps] * (NUM_STAGES // len(steps)))
    for row in ROWS:
        evaluate(row, options.name, options.data, limit, options.seeds)
    for table in tables(Chains([options.name])):
        console.print(table)
    console.rule(f"[bold]Done in {time.monotonic() - start:.0f} s", align="left")
    console.print(f"tables   python -m experiments.chain_report {options.name}")
    console.print(f"pictures grid.png beside each evaluation, the last stage's in {LAST.folder(options.name)}")


if __name__ == "__main__":
    main()
