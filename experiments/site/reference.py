"""The reference of the code: a page a package, made of docstrings; nothing of it is imported."""

from pathlib import Path

from experiments.site.links import ROOT

FOLDER = "reference"
LARGE = ("mmig", "mmig/methods", "datamodules")
"""Folders whose packages have pages of their own."""


def packages() -> list[str]:
    """Dotted names of the packages that have a page: those below LARGE, and what lies in LARGE itself."""
    found = [
        str(path.relative_to(ROOT)).replace("/", ".")
        for folder in LARGE
        for path in sorted((ROOT / folder).iterdir())
        if (path / "__init__.py").exists() and str(path.relative_to(ROOT)) not in LARGE
    ]
    return sorted([*found, "mmig", "datamodules"])


def page(package: str) -> str:
    """Path of a package's page on the site."""
    return f"{FOLDER}/{package}.md"


def modules(package: str) -> list[str]:
    """Dotted names of the modules of a package, those of packages within it too unless these have pages."""
    folder = ROOT / package.replace(".", "/")
    own = sorted(folder.glob("*.py")) if package in LARGE else sorted(folder.rglob("*.py"))
    return [name for path in own if (name := module_name(path)) != package and not path.name.startswith("__")]


def module_name(path: Path) -> str:
    """Dotted name of a file's module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def markdown(package: str) -> str:
    """The page of a package, for mkdocstrings."""
    inner = "\n".join(f"::: {name}\n" for name in modules(package))
    options = "    options:\n      members: false\n      show_root_heading: false\n"
    head = f"---\nsearch:\n  boost: 0.5\n---\n# `{package}`\n\n::: {package}\n{options}"
    return f"{head}\n{inner}"


def overview() -> str:
    """The page of all packages."""
    rows = "\n".join(f"| [`{name}`]({name}.md) | {first_line(name)} |" for name in packages())
    rules = "[CONTRIBUTING.md](../../CONTRIBUTING.md)"
    head = f"# The code\n\nFrom the docstrings. Rooms, and which may import which: {rules}.\n\n"
    return f"{head}| package | |\n|---|---|\n{rows}\n"


def first_line(package: str) -> str:
    """The first line of a package's docstring."""
    text = (ROOT / package.replace(".", "/") / "__init__.py").read_text(encoding="utf-8")
    return text.strip().strip('"').split("\n")[0].replace("|", "\\|").strip('"')
