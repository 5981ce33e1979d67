"""Where a path of a configuration leads, from whichever folder a program is started."""

import site
import sys
from pathlib import Path

_CODE = Path(__file__).resolve().parents[2]
_IS_CHECKOUT = (_CODE / "configs").is_dir() and (_CODE / "pyproject.toml").is_file()
_USER = Path(site.getuserbase())


def _installed() -> Path:
    """Where pip has put the shipped configurations: beside the code (--target), at the user's (--user), or usually."""
    places = [_CODE, *([_USER] if _CODE.is_relative_to(_USER) else []), Path(sys.prefix)]
    shared = [place / "share" / "mmig" for place in places]
    return next((place for place in shared if place.is_dir()), shared[-1])


ROOT = _CODE if _IS_CHECKOUT else _installed()
"""Root of the repository; where mmig is installed without it, the folder of the shipped configurations."""


def resolved(path: str | Path) -> Path:
    """A path of a configuration as it leads from here: relative to the current folder, or, where nothing is there,
    to the repository's root, from which the shipped configurations name their files. `~` is the home folder.
    """
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    return ROOT / given if (ROOT / given).exists() else given


def looked_in(path: str | Path) -> str:
    """Where `resolved` looked for a path that is not there, in words for an error; "" for an absolute one."""
    if Path(path).is_absolute():
        return ""
    here = Path.cwd()
    return f", relative to {here}" + (f" or {ROOT}" if here != ROOT else "")
