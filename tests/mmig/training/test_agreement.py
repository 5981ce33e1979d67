"""Process groups are left before Python ends."""

from pathlib import Path

import pytest
import torch.distributed as dist

from mmig.callbacks.preemption import Preempted
from mmig.run import cli
from mmig.training.agreement import leave_process_group


@pytest.mark.parametrize("ended", [None, Preempted("saved", 0)], ids=["done", "preempted"])
def test_a_run_leaves_its_process_group(
    ended: Preempted | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def run(args: list[str] | None) -> None:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
        if ended is not None:
            raise ended

    monkeypatch.setattr(cli, "MMIGCLI", run)
    try:
        cli.main([])
    except Preempted as end:
        assert end is ended
    assert not dist.is_initialized()
    leave_process_group()  # a run of one process has none
