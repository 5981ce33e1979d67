"""bitsandbytes, imported only where a setting asks for 4 or 8 bits: it is an extra, and needs an NVIDIA GPU."""

import importlib
import importlib.util
from typing import Any

import torch


class MissingLibraryError(ValueError):
    """A setting needs what this machine does not have; one line says what, and what to do instead."""


def bitsandbytes(setting: str, instead: str) -> Any:
    """The library.

    Args:
        setting: key and value that need it. instead: what to do without it.

    Raises:
        MissingLibraryError: it is not installed, or there is no GPU.
    """
    lacking = []
    if importlib.util.find_spec("bitsandbytes") is None:
        lacking.append("the library bitsandbytes (pip install 'mmig[cuda]')")
    if not torch.cuda.is_available():
        lacking.append("an NVIDIA GPU")
    if lacking:
        raise MissingLibraryError(f"{setting} needs {' and '.join(lacking)}, not found here; {instead}")
    return importlib.import_module("bitsandbytes")
