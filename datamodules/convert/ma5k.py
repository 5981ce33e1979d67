"""MA5k-Req: photographs of MIT-Adobe FiveK with requests (Shi et al. 2021, "Learning by Planning", FiveK part).

Layout: `annotations/{train,val,test}_sess_1.json`, lists of `input`, `output`, `request`; pictures in `images`, the
input as `{id}_O.jpg` and the five experts' as `{id}_A.jpg` ... `{id}_E.jpg`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, ClassVar

from datamodules.convert.pairs import Pair, PairSource, Request, text_of


@dataclass(frozen=True)
class MA5k(PairSource):
    """One request a pair, five pairs (experts A to E) a photograph; the splits share no photograph."""

    name: ClassVar[str] = "ma5k"
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"requests": 17_325},
        "val": {"requests": 2_475},
        "test": {"requests": 4_950},
    }
    files: ClassVar[Mapping[str, str]] = {split: f"{split}_sess_1.json" for split in ("train", "val", "test")}
    folders: ClassVar[tuple[str, ...]] = ("annotations", "", "splits", "data/FiveK/annotations", "data/FiveK/splits")
    pictures: ClassVar[tuple[str, ...]] = ("images/", "data/FiveK/images/", "")
    first: ClassVar[str] = "input"

    def pair(self, name: str, prefix: str, entry: dict[str, Any]) -> Pair:
        """Pictures `input` and `output`, one `request`."""
        source, target = (prefix + text_of(entry, side) for side in ("input", "output"))
        photograph, _, expert = PurePath(text_of(entry, "output")).stem.partition("_")
        notes = json.dumps({"photograph": photograph, "expert": expert})
        return Pair(name, source, target, (Request(text_of(entry, "request")),), notes)
