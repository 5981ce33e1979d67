"""A training stream without epochs, as a run sees it that is counted in steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from datamodules.schema import Batch
from datamodules.stream import ShardStream


class EndlessStream:
    """One epoch of a stream after the other, as one long row of batches that ends with the run's last step.

    The trainer so has one epoch, whose length is what is left of the run; an epoch of the data is the stream's affair.

    Args:
        stream: the training stream; its position is this one's too.
        num_batches: batches of the whole run, those consumed before a resume included.
    """

    def __init__(self, stream: ShardStream, num_batches: int) -> None:
        self.stream = stream
        self.num_batches = num_batches

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of an epoch of the data."""
        return self.stream.batches_per_epoch

    def __len__(self) -> int:
        return max(0, self.num_batches - self.stream.samples // self.stream.global_batch_size)

    def __iter__(self) -> Iterator[Batch]:
        while len(self) > 0:
            for batch in self.stream:
                yield batch
                if len(self) == 0:
                    return

    def state_dict(self) -> dict[str, Any]:
        """State of the stream."""
        return self.stream.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue the stream."""
        self.stream.load_state_dict(state)
