"""What every test gets: one thread a process, no hub access, and the repository's root."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

# Before torch and the hub's client are imported anywhere.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch

torch.set_num_threads(1)

ROOT = Path(__file__).resolve().parent.parent
LONGEST = (
    "tests/integration/test_random_signals.py",
    "tests/integration/test_random_kills.py",
    "tests/test_readme.py",
    "tests/mmig/methods/test_contract.py",
    "tests/experiments/test_any2pix_comparison.py",
    "tests/test_finetune_docs.py",
    "tests/integration/test_rank_equality.py",
    "tests/bench",
    "tests/integration",
    "tests/mmig/methods/mmig/stages",
)
"""Files and folders that take long. They go first: a file that begins last would keep one process busy alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; within a file nothing changes."""
    places = {ROOT / path: place for place, path in enumerate(LONGEST)}
    items.sort(key=lambda item: min(places.get(path, len(LONGEST)) for path in (item.path, *item.path.parents)))


@pytest.fixture(scope="session")
def root() -> Path:
    """Root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def files() -> list[Path]:
    """Every file of the repository that git does not ignore, relative to its root; committed or not."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = sorted(name for name in listed.stdout.split("\0") if name)
    return [Path(name) for name in names if (ROOT / name).is_file()]


@pytest.fixture(scope="module", autouse=True)
def environment() -> Iterator[None]:
    """The environment ends with the tests of a file: gradio leaves a variable of the hub's in it, after which no
    program could begin warm.
    """
    with mock.patch.dict(os.environ):
        yield


@pytest.fixture(scope="module")
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of the library `datasets` for the tests of a file, in the place of the user's; for those that look for
    tables.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets-cache")
        yield
