"""What runs: versions of the packages that results depend on, and the commit of the code."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

from mmig import __version__

PACKAGES = (
    "torch",
    "lightning",
    "diffusers",
    "transformers",
    "torchmetrics",
    "open_clip_torch",
    "jsonargparse",
    "numpy",
    "peft",
    "pillow",
    "safetensors",
)


def package_versions() -> dict[str, str]:
    """Versions of Python, of mmig, and of the packages that results depend on."""
    versions = {"python": platform.python_version(), "mmig": __version__}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def git_commit() -> str | None:
    """Commit of the code, with "+changes" where the working tree differs; None outside a git checkout."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True)
        status = subprocess.run(["git", "status", "--porcelain"], cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")


def describe_code() -> dict[str, Any]:
    """The package versions and the commit that run."""
    return {"versions": package_versions(), "commit": git_commit()}
