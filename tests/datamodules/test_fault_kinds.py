"""Each kind of damage is skipped and counted under its reason, or read as docs/data.md says; nothing is ever executed,
nothing written outside, nothing fatal below `max_bad_fraction`. The table of docs/data.md is what these tests find.
"""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path

import pytest

from datamodules.faults import REASONS, DataFaultError
from tests.datamodules.damage import Kind
from tests.datamodules.fault_table import (
    KINDS,
    check_good,
    check_read,
    committed_rows,
    observe,
    opened,
    stream_of,
    watched,
)
from tests.datamodules.kinds_of_tars import payload

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def marks(kind: Kind) -> list[pytest.MarkDecorator]:
    """A fault on the way to the cache repeats, slowly, what one on the way to a reader shows."""
    return [pytest.mark.slow] if kind.service and kind.service.cache_bytes else []


@pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name, marks=marks(kind)) for kind in KINDS])
def test_a_kind_of_damage_does_what_the_table_says(kind: Kind, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    allowed = tmp_path if kind.service and kind.service.cache_bytes else tmp_path / "data"
    with opened(kind, tmp_path) as index:
        found = observe(kind, index, allowed)
        assert ", ".join(found.reasons) == kind.reason and set(found.reasons) <= set(REASONS)
        check_good(kind, found.batches)
        if kind.reason:
            assert kind.kept == (kind.key in [batch["key"][0] for batch in found.batches])
            with pytest.raises(DataFaultError) as caught:
                list(stream_of(index, 0.0))
            assert all(re.search(rf"\b{reason} \d+ in 0\.tar", str(caught.value)) for reason in found.reasons)
        else:
            check_read(kind, found.batches)
    assert found.row in committed_rows()
    assert {path.name for path in tmp_path.iterdir()} <= {"data", "cache"}
    assert {path.name for path in (tmp_path / "data").iterdir()} <= {"0.tar", "1.tar", "0.idx", "1.idx", "index.json"}


def test_the_table_has_every_kind_once_and_at_least_thirty() -> None:
    names = [row.split(" | ")[0].removeprefix("| ") for row in committed_rows()]
    assert names == [kind.name for kind in KINDS] and len(set(names)) == len(names) >= 30


def test_what_must_never_be_executed_would_be_noticed(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with watched(tmp_path / "data") as noted:
        pickle.loads(payload("pkl"))
        Path("outside").write_text("x")
        os.symlink("outside", "link")
        Path("data/inside").write_text("x")
    assert (tmp_path / "executed").is_dir()
    assert [note.split()[0] for note in noted] == ["pickle.find_class", "os.mkdir", "open", "os.symlink"]
