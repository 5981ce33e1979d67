"""Python and the packages: whether they are there, in the versions that this repository asks for, and fit together."""

import importlib.metadata
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmig import __version__
from mmig.base.paths import ROOT
from mmig.base.versions import git_commit
from mmig.doctor.findings import Finding, pip

LEAST_PYTHON = (3, 11)
PAIR = ("torch", "torchvision")
CONSTRAINTS = "constraints.txt"


def python() -> Finding:
    """The interpreter, and which mmig it finds."""
    found = f"Python {platform.python_version()} at {sys.executable}, mmig {__version__} of {ROOT}"
    commit = git_commit()
    found += f" (commit {commit[:12]}{'+changes' if commit.endswith('+changes') else ''})" if commit else ""
    if sys.version_info < LEAST_PYTHON:
        least = ".".join(map(str, LEAST_PYTHON))
        return Finding("python", found, "wrong", f"take Python {least} or newer: make setup PYTHON=python{least}")
    return Finding("python", found)


def packages() -> Finding:
    """Every package that mmig asks for, by what its own metadata say."""
    try:
        from packaging.requirements import Requirement

        asked = [Requirement(line) for line in importlib.metadata.requires("mmig") or ()]
    except (ImportError, importlib.metadata.PackageNotFoundError) as error:
        found = f"mmig is not installed for this interpreter ({error})"
        return Finding("packages", found, "wrong", f"install it: {_whole()}")
    needed = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    problems = {}
    for one in needed:
        version = installed(one.name)
        if version is None:
            problems[one.name] = f"{one.name} is missing"
        elif not one.specifier.contains(version, prereleases=True):
            problems[one.name] = f"{one.name} {version} is not {one.specifier}"
    if not problems:
        return Finding("packages", f"all {len(needed)} are there, in versions that fit")
    return Finding("packages", ", ".join(problems.values()), "wrong", f"install them together: {_whole()}")


def torch_pair(facts: Mapping[str, Any]) -> Finding:
    """Whether torch and torchvision can be imported, and are of one pair and one build.

    Args:
        facts: answers of `probe`.
    """
    versions = {name: installed(name) for name in PAIR}
    for name in PAIR:
        problem = facts.get(name, {}).get("error")
        if problem is None:
            continue
        if versions[name] is None:
            return Finding("torch", f"{name} is not installed", "wrong", _mend(versions))
        beside = f" (torch {versions['torch']}, torchvision {versions['torchvision']})"
        return Finding("torch", f"{name} cannot be imported{beside}: {problem}", "wrong", _mend(versions))
    loaded = {name: facts.get(name, {}).get("version", "") for name in PAIR}
    found = f"torch {loaded['torch']} with torchvision {loaded['torchvision']}"
    if (asked := asked_torch()) and not _fits(loaded["torch"], asked):
        return Finding("torch", f"{found}, which is made for torch {asked}", "wrong", _mend(versions))
    builds = {_build(version) for version in loaded.values()}
    if len(builds) > 1:
        named = " and ".join(sorted(build or "the registry's own" for build in builds))
        return Finding("torch", f"{found}: builds of two indexes, {named}", "warning", _mend(versions))
    return Finding("torch", found)


def asked_torch() -> str:
    """The versions of torch that the installed torchvision is made for, as its metadata say ("==2.11.0"); "" where they
    do not.
    """
    for line in importlib.metadata.requires("torchvision") or ():
        if found := re.match(r"torch\s*\(?\s*([=><~!][^;)]*)", line):
            return found[1].strip()
    return ""


def installed(name: str) -> str | None:
    """Version of an installed package, as its metadata say; None where there is none."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _fits(version: str, asked: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError:
        return True  # `packages` names what is missing
    return SpecifierSet(asked).contains(_public(version), prereleases=True)


def _mend(versions: Mapping[str, str | None]) -> str:
    """The command that brings a pair, in one command and so from one index."""
    words = [f"{name}=={version}" for name, version in _pins(ROOT / CONSTRAINTS).items()]
    if not words and versions["torchvision"] is not None:
        words = [f"'torch{asked_torch()}'", f"torchvision=={_public(versions['torchvision'])}"]
    index = " (with the --index-url that this torch came from)" if _build(versions["torch"] or "") else ""
    return f"install both in one command{index}: {pip('--force-reinstall', *(words or PAIR))}"


def _pins(file: Path) -> dict[str, str]:
    """Versions of the pair that this repository is tested with; none where it is installed without its constraints."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return {name: version for name, _, version in (line.partition("==") for line in lines) if name in PAIR}


def _whole() -> str:
    constraint = ROOT / CONSTRAINTS
    return pip("--constraint", f"'{constraint}'", "--editable", f"'{ROOT}'") if constraint.is_file() else pip("mmig")


def _public(version: str) -> str:
    return version.partition("+")[0]


def _build(version: str) -> str:
    return version.partition("+")[2]
