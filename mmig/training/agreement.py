"""What ranks agree on while they train, without waiting for one another or for a GPU."""

import contextlib

import torch
import torch.distributed as dist
from torch import Tensor


class Agreement:
    """The largest number that any rank has said, told to all of them one call late.

    Each call starts the reduction of a number and returns the result of the call before, which has had a whole step to
    arrive. It runs in a gloo group of its own, between CPUs, so that a GPU has nothing to do with it: no kernel, no
    copy, nothing to wait for. All ranks must make their calls at the same places of the program. One process alone is
    answered at once.
    """

    def __init__(self) -> None:
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        self._group = dist.new_group(backend="gloo") if together else None
        self._pending: tuple[dist.Work, Tensor] | None = None

    def __call__(self, number: int) -> int:
        """Say `number`, at least 0; returns the largest of the call before, 0 at the first one."""
        if self._group is None:
            return number
        before = self._pending
        said = torch.tensor([number])
        self._pending = (dist.all_reduce(said, dist.ReduceOp.MAX, self._group, async_op=True), said)
        if before is None:
            return 0
        work, result = before
        work.wait()
        return int(result)

    def wait(self) -> None:
        """Wait until every rank is here or gone."""
        if self._group is not None:
            with contextlib.suppress(RuntimeError):  # a rank that has ended closes its connection
                dist.barrier(self._group)


def leave_process_group() -> None:
    """Leave the process group, if there is one; for ranks that end together, after their last collective.

    A thread of gloo may still hold the tensors of that collective; Python, once it has begun to end, would let the
    thread abort the whole process with SIGABRT. Lightning leaves only groups of nccl.
    """
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
