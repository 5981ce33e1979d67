"""Devices of programs."""

import os

import pytest
import torch

from mmig.base import batches
from mmig.base.batches import process_device


def test_a_process_of_torchrun_computes_on_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "chosen_device", torch.device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setitem(os.environ, "LOCAL_RANK", "3")
    assert process_device("cuda") == torch.device("cuda", 3)
    assert process_device("cuda:1") == torch.device("cuda", 1)
    assert process_device("cpu") == torch.device("cpu")
