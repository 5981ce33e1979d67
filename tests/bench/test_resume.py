"""bench/resume.py with few kills: the promise itself, and that the comparison would notice a broken one."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from bench.resume import CREWS, KINDS, compare, survive, write_data


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_goes_on_exactly_on_other_ranks_and_workers(kind: str, tmp_path: Path) -> None:
    write_data(tmp_path)
    lives = survive(kind, tmp_path, tmp_path / "run", kills=3, seed=KINDS.index(kind))
    assert [len(life.ranks) for life in lives] == [ranks for ranks, _ in CREWS[:4]]
    survived, lost = compare(kind, tmp_path, lives)
    assert all(survived) and all(lost) and len(survived) >= 12
    broken = copy.deepcopy(lives)
    last = broken[-1].ranks[0]
    last[3], last[4] = last[4], last[3]
    assert compare(kind, tmp_path, broken)[0].count(False) == 2
