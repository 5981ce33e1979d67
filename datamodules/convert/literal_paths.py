"""Lets `datasets` take a folder by its name: it looks for files by patterns, of which the folder becomes a part."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def literal_path(source: str) -> Iterator[None]:
    """Within it, brackets, `*` and `?` in the path of an existing folder stand for themselves."""
    folder = Path(source).expanduser().resolve().as_posix()
    if not Path(source).is_dir() or glob.escape(folder) == folder:
        yield
        return
    from datasets import data_files

    by_pattern = data_files.resolve_pattern

    def below(pattern: str, base_path: str, *settings: Any, **more: Any) -> list[str]:
        return by_pattern(pattern, glob.escape(base_path) if base_path == folder else base_path, *settings, **more)

    data_files.resolve_pattern = below
    try:
        yield
    finally:
        data_files.resolve_pattern = by_pattern
