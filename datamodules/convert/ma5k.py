"""MA5k-Req: photographs of MIT-Adobe FiveK with requests (Shi et al. 2021, "Learning by Planning", FiveK part).

Layout: `annotations/{train,val,test}_sess_1.json`, lists of `input`, `output`, `request`; pictures in `images`, the
input as `{id}_O.jpg` and the five experts' as `{id}_A.jpg` ... `{id}_E.jpg`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar

from datamodules.convert.pairs import Pair, PairSource, Request, find_pictures, read_splits, text_of

_FILES = {split: f"{split}_sess_1.json" for split in ("train", "val", "test")}
_FOLDERS = ("annotations", "", "splits", "data/FiveK/annotations", "data/FiveK/splits")
_PICTURES = ("images/", "data/FiveK/images/", "")


@dataclass(frozen=True)
class MA5k(PairSource):
    """One request a pair, five pairs (experts A to E) a photograph."""

    name: ClassVar[str] = "ma5k"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"requests": 17_325},
        "val": {"requests": 2_475},
        "test": {"requests": 4_950},
    }

    def splits(self) -> dict[str, Sequence[Any]]:
        """The authors' splits, which share no photograph."""
        entries = read_splits(Path(self.source), _FILES, _FOLDERS)
        prefix = find_pictures(self.source, _PICTURES, [text_of(e, "input") for part in entries.values() for e in part])
        return {
            split: [_pair(f"{split}-{number:05d}", prefix, entry) for number, entry in enumerate(part)]
            for split, part in entries.items()
        }


def _pair(name: str, prefix: str, entry: dict[str, Any]) -> Pair:
    source, target = (prefix + text_of(entry, side) for side in ("input", "output"))
    photograph, _, expert = PurePath(text_of(entry, "output")).stem.partition("_")
    notes = json.dumps({"photograph": photograph, "expert": expert})
    return Pair(name, source, target, (Request(text_of(entry, "request")),), notes)
