"""Where a path of a configuration leads, from whichever folder a program is started."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Root of the repository; the folder of all packages where mmig is installed without it."""
_IS_CHECKOUT = (ROOT / "configs").is_dir() and (ROOT / "pyproject.toml").is_file()


def resolved(path: str | Path) -> Path:
    """A path of a configuration as it leads from here: relative to the current folder, or, where nothing is there,
    to the repository's root, from which the shipped configurations name their files. `~` is the home folder.
    """
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists() or not _IS_CHECKOUT:
        return given
    return ROOT / given if (ROOT / given).exists() else given


def looked_in(path: str | Path) -> str:
    """Where `resolved` looked for a path that is not there, in words for an error; "" for an absolute one."""
    if Path(path).is_absolute():
        return ""
    here = Path.cwd()
    return f", relative to {here}" + (f" or {ROOT}" if _IS_CHECKOUT and here != ROOT else "")
