"""Tiny random backbones, built once, and copies to break."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tiny_fixtures import TinyBackbones, build_all


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[Path], Path]:
    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / folder.name))

    return copy
