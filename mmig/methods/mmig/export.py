"""From a training run to a folder that `MMIGPipeline.from_pretrained` opens, with a model card; or to one file.

python -m mmig.methods.mmig.export --checkpoint runs/NAME --out exported/NAME
python -m mmig.methods.mmig.export --checkpoint runs/NAME --out NAME.safetensors   (of any method, for --init_from)
"""

import argparse
import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from mmig.base.programs import one_line_errors
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
from mmig.diffusion.saving import write_json
from mmig.methods.mmig.pipeline import MMIGPipeline
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.run.edit import trained_resolution
from mmig.training.lora import merge_lora

logger = logging.getLogger(__name__)
READ_BY = {"llm": "llm_tokenizer", "captioner": "captioner_processor"}
"""Parts whose tokenizer or processor transformers, and a run that starts from them, expect in the same folder."""
ORIGINS = ("_name_or_path", "name_or_path")
"""Entries in which diffusers and transformers keep the folder that a part was loaded from."""


class ExportError(ValueError):
    """The run or the folder cannot be used."""


def export_run(checkpoint: str | Path, out: str | Path, ema: bool = True, report: str | Path | None = None) -> Path:
    """Write the pipeline of a run in diffusers' layout with README.md; the whole folder or nothing. Returns the folder.

    Low-rank updates are merged into their weights, and a quantised language model is written whole. The folders of the
    language model and of the captioner are complete for transformers, with tokenizer or processor.

    Args:
        checkpoint: run directory, a checkpoint, which may lie alone, or a file of weights.
        out: folder to make.
        ema: take the averaged weights where the run kept them.
        report: metrics.json of an evaluation, for the card; default: RUN/evaluation/metrics.json where it exists.

    Raises:
        ExportError: the folder exists, the run is none of an MMIG stage, or there is no such report.
        CheckpointError: no such run, or an unreadable file.
    """
    out = Path(out)
    _refuse_existing(out)
    stage = load_module(checkpoint, ema=ema, quantised=False)
    if not isinstance(stage, MMIGStage):
        raise ExportError(f"--checkpoint {checkpoint}: a run of {type(stage).__name__}, expected one of an MMIG stage")
    merge_lora(stage.mmig)
    values = read_checkpoint(checkpoint, outline=True)
    facts = CardFacts(
        name=out.name,
        run=_run_name(checkpoint, values),
        step=stage.step,
        averaged=values.get("averaged", ema),
        config=run_config(checkpoint, values),
        losses=stage.loss_weights,
        backbones=stage.backbone_paths(),
        report=_read_report(checkpoint, report),
    )
    pipeline = MMIGPipeline.from_model(stage.mmig, stage.sampling, trained_resolution(checkpoint))
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        pipeline.save_pretrained(partial)
        for part, reader in READ_BY.items():
            if getattr(pipeline, reader) is not None:
                getattr(pipeline, reader).save_pretrained(partial / part)
        _forget_origins(partial)
        (partial / "README.md").write_text(model_card(facts), encoding="utf-8")
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
    parser.add_argument("--checkpoint", required=True, help="run directory, a checkpoint, or a file of weights")
    parser.add_argument("--out", required=True, help="folder to make, or a file NAME.safetensors; it must not exist")
    parser.add_argument("--no-ema", action="store_true", help="take the trained weights instead of their average")
    parser.add_argument("--report", help="metrics.json for the card (default: RUN/evaluation/metrics.json, if there)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with one_line_errors():
        if Path(options.out).suffix == SUFFIX:
            out = export_weights(options.checkpoint, options.out, not options.no_ema)
        else:
            out = export_run(options.checkpoint, options.out, not options.no_ema, options.report)
        logger.info("written: %s", out)


if __name__ == "__main__":
    main()
