"""A run of ours as a backbone of another: its export in the published layout, made once and kept.

Wherever a backbone is named, a run directory, a checkpoint or a `.safetensors` file may stand (`mmig.backbones.hub`).
Its module is built, given its averaged weights, and exported to mmig/exported under XDG_CACHE_HOME or ~/.cache, under a
name that says which file of weights it was.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mmig.backbones.parts import BackboneError
from mmig.base.files import cache_folder
from mmig.checkpoints.checkpoint import CheckpointError, find_checkpoint, load_module, read_checkpoint, run_config
from mmig.training.module import TrainingModule


def exported(run: Path) -> Path:
    """The folder of a run's newest weights, exported if it was not yet.

    Several processes may ask at once: one exports, the others wait.

    Raises:
        BackboneError: nothing readable there, or the run's method exports nothing.
    """
    checkpoint = find_checkpoint(run)
    cache = cache_folder("exported")
    folder = cache / f"{checkpoint.stem}-{_identity(checkpoint)}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{folder.name}.lock"):
        if not folder.is_dir():
            _export(run, folder)
    return folder


def _export(run: Path, folder: Path) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        config = run_config(run, read_checkpoint(run, outline=True))
        module = load_module(run, quantised=False)
    except CheckpointError as error:
        hint = "; one of the original code: python -m mmig.backbones convert-original" if run.is_file() else ""
        raise BackboneError(f"{run}: a file or run that cannot serve as a backbone: {error}{hint}") from error
    if type(module).export is TrainingModule.export:
        raise BackboneError(f"{run}: {type(module).__name__} has no export, so no part of it can serve as a backbone")
    module.export(partial, config)
    os.rename(partial, folder)


def _identity(checkpoint: Path) -> str:
    """Changes with the file, or with one of the files of a sharded checkpoint."""
    files = [checkpoint] if checkpoint.is_file() else sorted(file for file in checkpoint.rglob("*") if file.is_file())
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(stats).encode()).hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
