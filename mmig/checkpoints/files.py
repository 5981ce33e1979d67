"""The two forms of a checkpoint on disk: one file, or a folder into which every rank writes its own shards.

Both hold the same nested values and read the same. A folder `step-XXXXXXXX.ckpt/` has `values.pt` (everything that is
not sharded, in place of each sharded tensor an empty one that tells shape and dtype, and the names and sizes of the
other files) and safetensors files written by torch.distributed.checkpoint. Nothing is ever unpickled but tensors and
plain values.
"""

import contextlib
import math
import os
import pickle
import re
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from lightning.fabric.plugins.io import TorchCheckpointIO
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint import CheckpointException
from torch.distributed.tensor import DTensor

from mmig.checkpoints.weights_file import SUFFIX, read_weights
from mmig.training.sharding import shard_like

VALUES = "values.pt"
SHARD_SIZES = "shard_sizes"
"""Entry of the values of a folder: bytes of each file of shards."""
_NAME = re.compile(r"step-(\d{8})\.ckpt")
_UNREADABLE = (
    RuntimeError, EOFError, OSError, pickle.UnpicklingError, KeyError, IndexError, ValueError, AssertionError,
    SafetensorError, CheckpointException,
)  # fmt: skip
"""What torch and safetensors raise on a file that is truncated, or something else."""


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable or does not fit."""


def checkpoints_in(directory: Path) -> list[Path]:
    """Finished checkpoints of a directory, oldest step first."""
    return sorted(path for path in directory.glob("step-*.ckpt") if _NAME.fullmatch(path.name))


def checkpoint_path(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}.ckpt"


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name."""
    return int(_NAME.fullmatch(path.name)[1])


def newest_in_words(directory: Path, up_to: float = math.inf) -> str:
    """The newest checkpoint up to a step, for messages; "none" where there is none."""
    found = [path for path in checkpoints_in(directory) if step_of(path) <= up_to]
    return str(found[-1]) if found else "none"


def map_tensors(values: Any, change: Callable[[tuple[str, ...], Tensor], Tensor], place: tuple[str, ...] = ()) -> Any:
    """Nested dicts, lists and tuples with every tensor replaced; `change` gets its place and the tensor."""
    if isinstance(values, Tensor):
        return change(place, values)
    if isinstance(values, Mapping):
        return type(values)((key, map_tensors(value, change, (*place, str(key)))) for key, value in values.items())
    if isinstance(values, list | tuple) and not hasattr(values, "_fields"):
        return type(values)(map_tensors(value, change, (*place, str(i))) for i, value in enumerate(values))
    return values


def on_host(values: Any) -> Any:
    """A copy in host memory, in which training changes nothing any more; stand-ins stay as they are."""
    return map_tensors(values, lambda _, tensor: tensor if tensor.is_meta else tensor.detach().to("cpu", copy=True))


def split_shards(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, DTensor]]:
    """The values with an empty stand-in for each sharded tensor, and these tensors by their place ("a/b/0")."""
    shards: dict[str, DTensor] = {}

    def take(place: tuple[str, ...], tensor: Tensor) -> Tensor:
        if not isinstance(tensor, DTensor):
            return tensor
        shards["/".join(place)] = tensor.detach()
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

    return map_tensors(values, take), shards


def write_file(values: dict[str, Any], path: Path) -> None:
    """Write the single-file form aside, force it to the disk, and give it its name."""
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            torch.save(values, file)
            file.flush()
            os.fsync(file.fileno())
        _give_name(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def finish_folder(values: dict[str, Any], partial: Path, path: Path) -> None:
    """Complete a folder into which all ranks have written, and give it its name."""
    sizes = {file.name: file.stat().st_size for file in sorted(partial.glob("*.safetensors"))}
    write_file({**values, SHARD_SIZES: sizes}, partial / VALUES)
    _give_name(partial, path)


def _give_name(partial: Path, path: Path) -> None:
    """Rename what is whole; a checkpoint of that name, broken or of a time before the run went back, is replaced."""
    if path.is_dir() or (partial.is_dir() and path.exists()):  # else the system replaces in one step
        remove(path)
    os.replace(partial, path)
    _sync_folder(path.parent)


def remove(path: Path) -> None:
    """Delete a checkpoint; a folder loses its name first, so that half of one is never taken for a checkpoint."""
    if path.is_dir():
        doomed = path.with_suffix(".old.partial")
        os.replace(path, doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def remove_leftovers(directory: Path) -> None:
    """Delete what killed writers have left."""
    for path in directory.glob("step-*.partial"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read(path: Path, parameters: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """All values of a checkpoint of either form.

    Args:
        path: file or folder.
        parameters: of a sharded module, by name. Tensors of a parameter's name and shape (its weight, average,
            moments) come as this rank's shards, of which no more is read than that; every rank must call.

    Raises:
        CheckpointError: it is damaged, or holds something else than tensors and plain values.
    """
    own = parameters or {}
    values = read_outline(path)
    wanted: dict[str, Tensor] = {}

    def prepare(place: tuple[str, ...], tensor: Tensor) -> Tensor:
        owner = _owner(place, tensor, own)
        if tensor.is_meta:
            tensor = torch.zeros(tensor.shape, dtype=tensor.dtype) if owner is None else _like(owner, tensor.dtype)
            wanted["/".join(place)] = tensor
            return tensor
        return shard_like(tensor, owner)

    values = map_tensors(values, prepare)
    if path.is_dir():
        with _one_line(path), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process reads all
            dcp.load(wanted, storage_reader=dcp.HuggingFaceStorageReader(str(path)), no_dist=parameters is None)
    return values


def read_outline(path: Path) -> dict[str, Any]:
    """The values without the data of large tensors: a file is mapped, a folder's shards stand as empty tensors.

    A file of weights (`mmig.checkpoints.weights_file`) gives what it has.

    Raises:
        CheckpointError: it is damaged, or holds something else than tensors and plain values.
    """
    with _one_line(path):
        if path.suffix == SUFFIX:
            return read_weights(path)
        if not path.is_dir():
            return _load(path)
        if not (path / VALUES).exists():
            raise ValueError(f"there is no {VALUES} in it")
        values = _load(path / VALUES)
        for name, size in values.pop(SHARD_SIZES).items():
            found = (path / name).stat().st_size if (path / name).exists() else None
            if found != size:
                raise ValueError(f"{name} has {size:,} bytes, found " + ("none" if found is None else f"{found:,}"))
        return values


def _load(file: Path) -> dict[str, Any]:
    if not zipfile.is_zipfile(file):  # torch would say that it cannot map it
        raise ValueError(f"it is cut off or no checkpoint ({file.stat().st_size:,} bytes)")
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


@contextlib.contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn what libraries raise on a damaged checkpoint into one line that says how to go on."""
    try:
        yield
    except _UNREADABLE as error:
        found = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            found = "it holds code, or is no checkpoint; nothing of it was run"  # torch would say how to run it
        raise CheckpointError(f"cannot read checkpoint {path}: {found}; use an earlier one") from error


class AnyFormIO(TorchCheckpointIO):
    """Lets any strategy load either form."""

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,
        weights_only: bool | None = None,
        parameters: Mapping[str, Tensor] | None = None,
    ) -> Any:
        """All values, in host memory or, with a sharded module's `parameters`, as shards; always weights only."""
        return read(Path(path), parameters)


def _like(owner: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(owner, dtype=dtype).detach()


def _owner(place: tuple[str, ...], tensor: Tensor, parameters: Mapping[str, Tensor]) -> Tensor | None:
    """The parameter that a tensor belongs to: one that its place names, of the same shape."""
    owner = next((parameters[name] for name in place if name in parameters), None)
    return owner if owner is not None and owner.shape == tensor.shape else None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
