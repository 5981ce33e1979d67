"""bench/mgie_edits.py: three editors of the same sizes, of which one writes as many tokens as it is told to."""

import re

import pytest
import torch

from bench.mgie_edits import calls, editors, main
from bench.stages.sizes import SMALL


def test_a_line_a_batch_size(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--batches", "1", "2", "--steps", "1", "--rounds", "1", "--tokens", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert [re.match(r"mgie_edits/batch_(\d) ratio [\d.]+ \(no goal: instruct_pix2pix", line)[1] for line in lines] == [
        "1",
        "2",
    ]


def test_the_writing_one_writes_as_many_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    found = editors(SMALL, "cpu", torch.float32, steps=1, tokens=5)
    works = calls(found, SMALL, 2, "cpu", torch.float32)
    written = works["written"]()
    assert written.extras["forced"] == [True, True]
    writer = found["written"].writer
    visual = writer.visual_tokens(torch.zeros(2, 3, 64, 64))
    assert [len(ids) for ids in writer.write(["a", "b"], visual, 5).ids] == [5, 5]
    assert works["given"]().extras["forced"] == [False, False]
    assert works["instruct_pix2pix"]().images.shape == written.images.shape
