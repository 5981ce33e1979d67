"""`make` sets up once, again when a dependency changed, and from a path with spaces; nothing is installed here."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

INPUTS = ("Makefile", "setup.cfg", "constraints.txt", "pyproject.toml")


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """What `make` reads, in a folder whose name has spaces."""
    folder = tmp_path / "a path with spaces"
    folder.mkdir()
    for name in INPUTS:
        shutil.copy(root / name, folder)
    return folder


def dry_run(folder: Path, target: str = "setup") -> str:
    command = ["make", "--dry-run", target, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


def set_up(folder: Path) -> None:
    """Leave the stamp that a finished installation leaves."""
    stamp = folder / re.findall(r'touch "(\.venv/installed-\d+)"', dry_run(folder))[-1]
    stamp.parent.mkdir(exist_ok=True)
    stamp.touch()


@pytest.mark.parametrize("target", ["demo", "test", "slow-test", "lint", "docs", "bench"])
def test_a_fresh_clone_is_set_up_first(clone: Path, target: str) -> None:
    text = dry_run(clone, target)
    assert "pip install" in text
    assert text.index("-m venv") < text.index("pip install") < text.rindex(".venv/bin/python")


def test_torch_and_torchvision_come_from_one_pip_command(clone: Path) -> None:
    assert dry_run(clone).count("pip install") == 1


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_a_finished_installation_is_used_again(clone: Path, target: str) -> None:
    set_up(clone)
    assert "pip install" not in dry_run(clone, target)


def test_newer_files_with_the_same_content_install_nothing(clone: Path) -> None:
    set_up(clone)
    for name in INPUTS:
        os.utime(clone / name, (2e9, 2e9))
    command = ["make", "setup", f"PYTHON={sys.executable}"]
    result = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    assert "installing" not in result.stdout


@pytest.mark.parametrize("name", INPUTS[1:])
def test_a_changed_dependency_file_installs_again(clone: Path, name: str) -> None:
    set_up(clone)
    with (clone / name).open("a", encoding="utf-8") as file:
        file.write("\n# changed\n")
    assert "pip install" in dry_run(clone)


def test_a_moved_folder_installs_again(clone: Path) -> None:
    set_up(clone)
    assert "pip install" in dry_run(clone.rename(clone.with_name("moved")))


def test_help_is_what_plain_make_prints(clone: Path) -> None:
    text = subprocess.run(["make"], cwd=clone, capture_output=True, text=True, check=True).stdout
    assert all(
        f"make {target} " in text
        for target in ("demo", "test", "slow-test", "lint", "docs", "bench", "clean", "tiny-backbones")
    )
