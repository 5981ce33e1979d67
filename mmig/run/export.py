"""From a training run of any method to a folder in diffusers' layout, with a model card; or to one file of weights.

python -m mmig.run.export --checkpoint runs/NAME --out exported/NAME
python -m mmig.run.export --checkpoint runs/NAME --out NAME.safetensors

Both are starts of new runs (--init_from). What a folder holds is the method's: a pipeline, or the part that it trains.
"""

import argparse
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from mmig.base.commands import OptionParser, one_line_errors
from mmig.checkpoints.checkpoint import (
    CheckpointError,
    checkpoint_weights,
    load_module,
    read_checkpoint,
    run_config,
    run_directory,
)
from mmig.checkpoints.model_card import CardFacts, model_card
from mmig.checkpoints.weights_file import SUFFIX, write_weights
from mmig.evaluation.data import data_section

logger = logging.getLogger(__name__)


class ExportError(ValueError):
    """The run or the folder cannot be used."""


def export_run(
    checkpoint: str | Path,
    out: str | Path,
    ema: bool = True,
    report: str | Path | None = None,
    data: str | Path | None = None,
) -> Path:
    """Write what a run has learned in diffusers' layout with README.md (see `TrainingModule.export`).

    The whole folder is written or nothing. Low-rank updates are merged into their weights, and a quantised language
    model is written whole.

    Args:
        checkpoint: run directory, a checkpoint, which may lie alone, or a file of weights.
        out: folder to make.
        ema: take the averaged weights where the run kept them.
        report: metrics.json of an evaluation, for the card; default: RUN/evaluation/metrics.json where it exists.
        data: YAML with the section `data` that an export may measure on, in place of the run's own.

    Returns:
        The folder.

    Raises:
        ExportError: the folder exists, or there is no such report.
        ValueError: the method exports nothing, or cannot with these data.
        CheckpointError: no such run, or an unreadable file.
    """
    out = Path(out)
    _refuse_existing(out)
    module = load_module(checkpoint, ema=ema, quantised=False)
    values = read_checkpoint(checkpoint, outline=True)
    config = run_config(checkpoint, values)
    facts = {
        "step": module.step,
        "losses": module.loss_weights,
        "backbones": {name: origin.path for name, origin in module.origins.items()},
    }
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        about = module.export(partial, config if data is None else {**config, "data": data_section(Path(data))})
        card = CardFacts(
            name=out.name,
            about=about.replace("{name}", out.name),
            task=module.hub_task,
            run=_run_name(checkpoint, values),
            averaged=values.get("averaged", ema),
            config=config,
            report=_read_report(checkpoint, report),
            **facts,
        )
        (partial / "README.md").write_text(model_card(card), encoding="utf-8")
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def export_weights(checkpoint: str | Path, out: str | Path, ema: bool = True) -> Path:
    """Write the weights of a run of any method as one safetensors file (see `mmig.checkpoints.weights_file`).

    Returns the file.

    Args:
        checkpoint: run directory, or a checkpoint of either form.
        out: file to write.
        ema: take the averaged weights where the run kept them.

    Raises:
        ExportError: the file exists.
        CheckpointError: no such run, or an unreadable file.
    """
    out = Path(out)
    _refuse_existing(out)
    values = read_checkpoint(checkpoint)
    manifest = {**values.get("manifest", {}), "config": run_config(checkpoint, values)}
    averaged = values.get("averaged", ema and "ema" in values)
    facts = {"step": values["step"], "backbones": values["backbones"], "manifest": manifest, "averaged": averaged}
    write_weights(out, checkpoint_weights(values, ema), facts)
    return out


def _refuse_existing(out: Path) -> None:
    if out.exists():
        raise ExportError(f"--out {out}: exists already; nothing is overwritten: give another name, or delete it")


def _run_name(checkpoint: str | Path, values: dict[str, Any]) -> str:
    try:
        return run_directory(checkpoint).name
    except CheckpointError:  # it lies alone
        return values.get("manifest", {}).get("name") or Path(checkpoint).stem


def _read_report(checkpoint: str | Path, path: str | Path | None) -> Any:
    if path is None:
        try:
            usual = run_directory(checkpoint) / "evaluation" / "metrics.json"
        except CheckpointError:
            return None
        if not usual.is_file():
            return None
        path = usual
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"--report {path}: not readable ({error}); give an evaluation's metrics.json") from error


def main(arguments: list[str] | None = None) -> None:
    """Export a run."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run directory, a checkpoint, or a file of weights")
    parser.add_argument("--out", required=True, help="folder to make, or a file NAME.safetensors; it must not exist")
    parser.add_argument("--no-ema", action="store_true", help="take the trained weights instead of their average")
    parser.add_argument("--report", help="metrics.json for the card (default: RUN/evaluation/metrics.json, if there)")
    parser.add_argument("--data", help="YAML with other data to measure on (the latent scale of a new autoencoder)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        if Path(options.out).suffix == SUFFIX:
            out = export_weights(options.checkpoint, options.out, not options.no_ema)
        else:
            out = export_run(options.checkpoint, options.out, not options.no_ema, options.report, options.data)
        logger.info("written: %s", out)


if __name__ == "__main__":
    main()
