"""Batches of the schema as evaluation handles them: moved, cut, checked against what an editor needs."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mmig.editor import Editor


class MissingFieldError(ValueError):
    """The data lack a field that the editor declares as required."""


def chosen_device(name: str) -> torch.device:
    """The device of --device; "auto" is a GPU where there is one.

    Raises:
        ValueError: no such kind of device, or none of it here.
    """
    try:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name}: cannot be used ({reason}); give auto, cpu, cuda or cuda:1") from error
    return device


def move_batch(batch: Mapping[str, Any], device: torch.device | str) -> dict[str, Any]:
    """The batch with its tensors on `device`."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def take(batch: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
    """Some samples of a batch, in the order of `rows`; `faults` is no per-sample field and stays whole."""
    index = torch.tensor(list(rows), dtype=torch.long)
    taken = {}
    for name, value in batch.items():
        if name == "faults":
            taken[name] = value
        elif isinstance(value, Tensor):
            taken[name] = value[index.to(value.device)]
        else:
            taken[name] = [value[row] for row in rows]
    return taken


def readable(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The samples of a batch without those that the stream could not read (their key is "")."""
    rows = [row for row, key in enumerate(batch["key"]) if key]
    return dict(batch) if len(rows) == len(batch["key"]) else take(batch, rows)


def first(batches: Iterable[Mapping[str, Any]], limit: int, world_size: int = 1) -> Iterator[dict[str, Any]]:
    """A rank's part of the first `limit` samples of a stream, by position: the same ones on any number of ranks.

    Args:
        batches: this rank's parts of the stream's batches from position 0 on, as long as those of the other ranks.
        limit: samples over all ranks.
        world_size: ranks that read the stream; all of them stop after the same batch.
    """
    num_read = 0
    for batch in batches:
        yield take(batch, [row for row, position in enumerate(batch["position"].tolist()) if position < limit])
        num_read += len(batch["key"]) * world_size
        if num_read >= limit:
            return


def check_fields(editor: Editor, batch: Mapping[str, Any]) -> None:
    """Refuse a batch without what the editor requires.

    Raises:
        MissingFieldError: naming the field and a sample that lacks it.
    """
    for name in editor.required_fields:
        flags = batch.get(f"has_{name}")
        present = [name in batch] * len(batch["key"]) if flags is None else flags.tolist()
        if not all(present):
            key = batch["key"][present.index(False)]
            raise MissingFieldError(
                f"sample {key!r}: {type(editor).__name__} needs the field {name!r}, found none; "
                f"evaluate on data that have {', '.join(editor.required_fields)}"
            )
