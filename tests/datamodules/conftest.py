"""Shards that more than one file of tests reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from datamodules.shards import write_shards
from tests.datamodules.make_samples import make_edit, make_samples


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(make_samples(10), tmp_path / "data", 4)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 edits in `edits/train` and 12 in `others`."""
    folder = tmp_path_factory.mktemp("sources")
    write_shards(map(make_edit, range(60)), folder / "edits" / "train", 8)
    write_shards(map(make_edit, range(100, 112)), folder / "others", 5)
    return folder
