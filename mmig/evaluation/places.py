"""Names of the pictures of an evaluation, on which what writes and what reads them agrees. Imports nothing heavy."""

FOLDER = "pictures"
"""In the folder of an evaluation."""
MARK = "kept.json"
"""Says that evaluate.py wrote the folder, and so may replace it."""
TEXTS = "texts.json"
"""Texts that came with pictures, by file name without the suffix."""


def picture_name(key: str, seed: int = 0) -> str:
    """File name of a sample's picture, `KEY.png` of seed 0 and `KEY.SEED.png` of another; no two keys share one."""
    escaped = key.replace("%", "%25").replace("/", "%2F")
    return f"{escaped}.png" if seed == 0 else f"{escaped}.{seed}.png"


def key_of(name: str) -> str:
    """The key of the part of a file name that holds it."""
    return name.replace("%2F", "/").replace("%25", "%")
