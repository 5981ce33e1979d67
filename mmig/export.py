"""From a training run to a folder that `MMIGPipeline.from_pretrained` opens, with a model card.

python -m mmig.export --checkpoint runs/NAME --out exported/NAME
"""

import argparse
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from mmig.checkpoint import load_module, run_directory
from mmig.dem.saving import write_json
from mmig.evaluation.single import trained_resolution
from mmig.lora import merge_lora
from mmig.model_card import CardFacts, model_card
from mmig.pipeline import MMIGPipeline
from mmig.programs import one_line_errors
from mmig.stages.mmig_stage import MMIGStage

logger = logging.getLogger(__name__)
ORIGINS = ("_name_or_path", "name_or_path")
"""Entries in which diffusers and transformers keep the folder that a part was loaded from."""


class ExportError(ValueError):
    """The run or the folder cannot be used."""


def export_run(checkpoint: str | Path, out: str | Path, ema: bool = True, report: str | Path | None = None) -> Path:
    """Write the pipeline of a run in diffusers' layout with README.md; the whole folder or nothing. Returns the folder.

    Low-rank updates are merged into their weights, and a quantised language model is written whole.

    Args:
        checkpoint: run directory, or a checkpoint file in one.
        out: folder to make.
        ema: take the averaged weights where the run kept them.
        report: metrics.json of an evaluation, for the card; default: RUN/evaluation/metrics.json where it exists.

    Raises:
        ExportError: the folder exists, the run is none of an MMIG stage, or there is no such report.
        CheckpointError: no such run, or an unreadable file.
    """
    out = Path(out)
    if out.exists():
        raise ExportError(f"--out {out}: exists already; nothing is overwritten: give another folder, or delete it")
    stage = load_module(checkpoint, ema=ema, quantised=False)
    if not isinstance(stage, MMIGStage):
        raise ExportError(f"--checkpoint {checkpoint}: a run of {type(stage).__name__}, expected one of an MMIG stage")
    merge_lora(stage.mmig)
    run = run_directory(checkpoint)
    config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    facts = CardFacts(
        name=out.name,
        run=run.name,
        step=stage.step,
        averaged=ema,
        config=config,
        losses=stage.loss_weights,
        backbones=stage.backbone_paths(),
        report=_read_report(run, report),
    )
    pipeline = MMIGPipeline.from_model(stage.mmig, stage.sampling, trained_resolution(checkpoint))
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        pipeline.save_pretrained(partial)
        _forget_origins(partial)
        (partial / "README.md").write_text(model_card(facts), encoding="utf-8")
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _read_report(run: Path, path: str | Path | None) -> Any:
    usual = run / "evaluation" / "metrics.json"
    if path is None and not usual.is_file():
        return None
    try:
        return json.loads(Path(path or usual).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"--report {path or usual}: not readable ({error}); give an evaluation's metrics.json"
        ) from error


def _forget_origins(folder: Path) -> None:
    """Remove from the configs where the parts were loaded from: paths of one machine."""
    for path in [*sorted(folder.glob("**/*config.json")), folder / "model_index.json"]:
        config = json.loads(path.read_text(encoding="utf-8"))
        cleaned = _without_origins(config)
        if cleaned != config:
            write_json(path, cleaned)


def _without_origins(config: Any) -> Any:
    if not isinstance(config, dict):
        return config
    return {name: _without_origins(value) for name, value in config.items() if name not in ORIGINS}


def main(arguments: list[str] | None = None) -> None:
    """Export a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run directory, or a .ckpt file in one")
    parser.add_argument("--out", required=True, help="folder to make; it must not exist")
    parser.add_argument("--no-ema", action="store_true", help="take the trained weights instead of their average")
    parser.add_argument("--report", help="metrics.json for the card (default: RUN/evaluation/metrics.json, if there)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        out = export_run(options.checkpoint, options.out, not options.no_ema, options.report)
        logger.info("written: %s", out)


if __name__ == "__main__":
    main()
