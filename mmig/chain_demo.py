"""`make chain-demo`: MMIG's five stages in order on the small world, each from the last, then one table.

Beside the five stages stand stage 5 without MMSM, and the same editing UNet trained for as many steps on the raw
instruction alone (InstructPix2Pix). Every row is shown with given and with generated responses where it has any.
`--short` does the same with a few steps, for tests; `--steps` and `--limit` make it longer.
"""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from mmig.demo import console, run
from mmig.evaluation.files import write_json
from mmig.evaluation.report import format_value
from mmig.programs import positive

METRICS = {
    "success": "success",
    "preservation": "preservation",
    "clip_directional_similarity": "CLIP-dir",
    "clip_score": "CLIP score",
    "response_accuracy": "z_d right",
    "caption_accuracy": "d_new right",
}
TRAINS_UNET = (3, 4, 5)
NUM_STAGES = 5


@dataclass(frozen=True)
class Row:
    """One row of the table: a run, and how it is sampled."""

    title: str
    run: str
    responses: str | None = None
    settings: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where its evaluation goes."""
        name = "-".join([part for part in (self.responses, *self.settings) if part] or ["edits"])
        return f"{self.run}/evaluation/{name.replace('=', '-')}"

    @property
    def sampling(self) -> list[str]:
        """Arguments of evaluate.py."""
        settings = [f"response={self.responses}"] if self.responses else []
        settings += self.settings
        return ["--sampling", *settings] if settings else []


def rows(name: str) -> list[Row]:
    """All rows of the table, by the runs' common name."""
    chain = [
        Row(f"stage {stage}", f"runs/{name}-stage{stage}", responses)
        for stage in range(1, NUM_STAGES + 1)
        for responses in ("given", "generated")
    ]
    without = [
        Row("stage 5, no MMSM", f"runs/{name}-stage5", responses, ("use_mmsm=false",))
        for responses in ("given", "generated")
    ]
    return [*chain, *without, Row("instruction alone", f"runs/{name}-instruction{TRAINS_UNET[-1]}")]


def train_chain(name: str, data: str, seed: int, steps: int | None) -> None:
    """Train the five stages, and the baseline on the samples and for the steps of those that train the UNet."""
    length = [] if steps is None else ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(steps)]

    def fit(title: str, config: str, stage: int, run_name: str, before: str | None) -> None:
        # each stage begins a new stream: with one seed all would see the same first samples, and draw the same noise
        own = str(NUM_STAGES * seed + stage - 1)
        run(
            title,
            *("train.py", "fit", "--config", f"configs/demo/{config}.yaml", "--config", data, "--name", run_name),
            *("--seed_everything", own, "--model.init_args.seed", own, "--data.init_args.seed", own, *length),
            *(["--init_from", f"runs/{before}"] if before else []),
        )

    for stage in range(1, NUM_STAGES + 1):
        before = f"{name}-stage{stage - 1}" if stage > 1 else None
        fit(f"Stage {stage} of {NUM_STAGES}", f"stage{stage}", stage, f"{name}-stage{stage}", before)
    before = None
    for stage in TRAINS_UNET:
        title = f"The same UNet on the instruction alone, with the samples of stage {stage}"
        fit(title, "instruct_pix2pix", stage, f"{name}-instruction{stage}", before)
        before = f"{name}-instruction{stage}"


def evaluate_rows(table: Sequence[Row], data: str, limit: int, seeds: int) -> None:
    """Evaluate every row on the same samples with the same noise."""
    for row in table:
        run(
            f"Evaluation: {row.title}" + (f", responses {row.responses}" if row.responses else ""),
            *("evaluate.py", "--checkpoint", row.run, "--data", data, "--split", "test", "--limit", str(limit)),
            *("--seeds", str(seeds), "--metrics", *METRICS, "--out", row.folder, *row.sampling),
        )


def read(row: Row) -> dict[str, Any]:
    """The metrics of a row that was evaluated."""
    return json.loads((Path(row.folder) / "metrics.json").read_text(encoding="utf-8"))["metrics"]


def overall_table(table: Sequence[Row]) -> Table:
    """Every metric of every row, with 95 % intervals."""
    shown = Table(title="Five stages on the small world (mean [95 % interval])", title_justify="left")
    shown.add_column("")
    shown.add_column("responses")
    for title in METRICS.values():
        shown.add_column(title, justify="right")
    for row in table:
        metrics = read(row)
        shown.add_row(row.title, row.responses or "-", *(format_value(metrics[name], digits=2) for name in METRICS))
    return shown


def type_table(table: Sequence[Row], metric: str) -> Table:
    """One metric by edit type, a column a row of the overall table."""
    shown = Table(title=f"{METRICS[metric]} by edit type (given, then generated responses)", title_justify="left")
    titles = list(dict.fromkeys(row.title for row in table))
    for column in ("", *titles):
        shown.add_column(column, justify="right" if column else "left")
    found = {title: [read(row)[metric]["per_edit_type"] for row in table if row.title == title] for title in titles}
    for kind in sorted(found[titles[0]][0]):
        cells = [" / ".join(f"{100 * values[kind]['value']:.0f}" for values in found[title]) for title in titles]
        shown.add_row(kind, *cells)
    return shown


def main(arguments: list[str] | None = None) -> None:
    """Run the chain demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few steps and samples only, as the tests run it")
    parser.add_argument("--name", default="chain", help="beginning of the runs' names (default: chain)")
    parser.add_argument("--data", default="configs/data/demo.yaml", help="data configuration, with the shards' folder")
    parser.add_argument("--steps", type=positive, help="steps a stage (default: the configs')")
    parser.add_argument("--limit", type=positive, default=64, help="test samples (default: 64)")
    parser.add_argument("--seeds", type=positive, default=1, help="sampling seeds (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trainings (default: 0)")
    options = parser.parse_args(arguments)
    start, table = time.monotonic(), rows(options.name)
    run("The small world", "-m", "datamodules.tinyworld", "--config", options.data)
    steps, limit = (2, 4) if options.short else (options.steps, options.limit)
    train_chain(options.name, options.data, options.seed, steps)
    evaluate_rows(table, options.data, limit, options.seeds)
    console.print(overall_table(table))
    for metric in ("success", "preservation"):
        console.print(type_table(table, metric))
    shown = next(row for row in table if row.title == f"stage {NUM_STAGES}" and row.responses == "generated")
    results = Path(f"runs/{options.name}-stage5/evaluation/chain.json")
    write_json(results, [{"title": row.title, "responses": row.responses, "metrics": read(row)} for row in table])
    console.rule(f"[bold]Done in {time.monotonic() - start:.0f} s", align="left")
    console.print(f"numbers  {results}\npictures grid.png beside each evaluation, the last stage's in {shown.folder}")


if __name__ == "__main__":
    main()
