"""What `pip install .` brings: packages, their data, the shipped configurations, and the three commands."""

import configparser
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PROGRAMS = {"mmig-train": "train", "mmig-evaluate": "evaluate", "mmig-edit": "edit"}
PACKAGES = ("mmig", "datamodules", "experiments")


@pytest.fixture(scope="module")
def wheel(root: Path, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a clone, built offline with the setuptools that is here."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in files:
        if path.parts[0] in (*PACKAGES, "configs") or len(path.parts) == 1:
            (folder / "clone" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "clone" / path).write_bytes((root / path).read_bytes())
    command = ["pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), "."]
    subprocess.run([sys.executable, "-m", *command], cwd=folder / "clone", check=True, capture_output=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_it_holds_every_package_and_its_data(wheel: zipfile.ZipFile, files: list[Path]) -> None:
    expected = {path.as_posix() for path in files if path.parts[0] in PACKAGES}
    assert expected - set(wheel.namelist()) == set()


def test_it_holds_nothing_of_tests_and_weights(wheel: zipfile.ZipFile) -> None:
    assert not [
        name for name in wheel.namelist() if name.split("/")[0] in ("tests", "bench", "assets", "docs", "slurm")
    ]


def test_it_holds_every_shipped_configuration(wheel: zipfile.ZipFile, files: list[Path]) -> None:
    held = {name.split("/data/share/mmig/", 1)[1] for name in wheel.namelist() if "/data/share/mmig/" in name}
    assert held == {path.as_posix() for path in files if path.parts[0] == "configs"}


def test_its_commands_are_the_three_programs(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    found = configparser.ConfigParser()
    found.read_string(wheel.read(name).decode())
    assert dict(found["console_scripts"]) == {
        command: f"mmig.run.programs:{program}" for command, program in PROGRAMS.items()
    }


def test_installed_as_usual_it_finds_its_configurations_and_says_its_help(
    wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    wheel.extractall(tmp_path)
    share = next(tmp_path.glob("*.data/data"))
    for program in PROGRAMS.values():
        more = f"from mmig.run.programs import {program} as program\nprogram()"
        said = run_installed(tmp_path, share, f"sys.prefix = {str(share)!r}; sys.argv = ['program', '--help']", more)
        assert said.startswith("usage: ")


@pytest.mark.parametrize("option", ["--target", "--user"])
def test_installed_elsewhere_it_finds_its_configurations(wheel: zipfile.ZipFile, tmp_path: Path, option: str) -> None:
    base = tmp_path / "base"
    code = base if option == "--target" else base / "lib" / "python3" / "site-packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(base)]
    subprocess.run([*pip, str(wheel.filename)], check=True)
    if option == "--user":  # which pip refuses in a virtual environment: the same files where it would put them
        code.mkdir(parents=True)
        (base / "mmig").rename(code / "mmig")
    run_installed(code, base, "", "", PYTHONUSERBASE=str(base))


def run_installed(code: Path, share: Path, before: str, after: str, **environment: str) -> str:
    """What a program says that imports mmig from a folder and looks for a configuration, found in another."""
    program = (
        f"import sys; sys.path.insert(0, {str(code)!r})\n{before}\n"
        "from mmig.base.paths import resolved\n"
        f"assert str(resolved('configs/demo/stage1.yaml')).startswith({str(share)!r})\n{after}"
    )
    command = [sys.executable, "-c", program]
    settings = {"capture_output": True, "text": True, "env": os.environ | environment}
    result = subprocess.run(command, cwd=code, check=False, **settings)
    assert result.returncode == 0, result.stderr
    return result.stdout
