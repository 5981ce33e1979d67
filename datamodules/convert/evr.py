"""EVR, the Image Editing Request corpus (Tan et al. 2019, "Expressing Visual Relationships via Language").

Layout: `dataset/adobe/{train,valid,test}.json`, lists of `img0`, `img1`, `sents`, `uid`; the pictures, which come apart
from them, lie in `images` beside them or at the top.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from datamodules.convert.pairs import Pair, PairSource, Request, text_of, texts_of


@dataclass(frozen=True)
class EVR(PairSource):
    """One request a training pair, three a validation or test pair."""

    name: ClassVar[str] = "evr"
    samples_per_item: ClassVar[int] = 3
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"pairs": 3061, "requests": 3061},
        "val": {"pairs": 383, "requests": 1149},
        "test": {"pairs": 495, "requests": 1485},
    }
    files: ClassVar[Mapping[str, str]] = {"train": "train.json", "val": "valid.json", "test": "test.json"}
    folders: ClassVar[tuple[str, ...]] = ("", "dataset/adobe", "data")
    pictures: ClassVar[tuple[str, ...]] = (
        *("images/", "dataset/adobe/images/", "dataset/adobe/"),
        *("data/images/", "data/", ""),
    )
    first: ClassVar[str] = "img0"

    def pair(self, name: str, prefix: str, entry: dict[str, Any]) -> Pair:
        """Pictures `img0` and `img1`, requests `sents`."""
        source, target = (prefix + text_of(entry, side) for side in ("img0", "img1"))
        requests = tuple(map(Request, texts_of(entry, "sents")))
        return Pair(name, source, target, requests, json.dumps({"uid": text_of(entry, "uid")}))
