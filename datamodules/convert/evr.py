"""EVR, the Image Editing Request corpus (Tan et al. 2019, "Expressing Visual Relationships via Language").

Layout: `dataset/adobe/{train,valid,test}.json`, lists of `img0`, `img1`, `sents`, `uid`; the pictures, which come apart
from them, lie in `images` beside them or at the top.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from datamodules.convert.pairs import Pair, PairSource, Request, find_pictures, read_splits, text_of, texts_of

_FILES = {"train": "train.json", "val": "valid.json", "test": "test.json"}
_FOLDERS = ("", "dataset/adobe", "data")
_PICTURES = ("images/", "dataset/adobe/images/", "dataset/adobe/", "data/images/", "data/", "")


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

    def splits(self) -> dict[str, Sequence[Any]]:
        """The authors' splits."""
        entries = read_splits(Path(self.source), _FILES, _FOLDERS)
        prefix = find_pictures(self.source, _PICTURES, [text_of(e, "img0") for part in entries.values() for e in part])
        return {
            split: [_pair(f"{split}-{number:05d}", prefix, entry) for number, entry in enumerate(part)]
            for split, part in entries.items()
        }


def _pair(name: str, prefix: str, entry: dict[str, Any]) -> Pair:
    source, target = (prefix + text_of(entry, side) for side in ("img0", "img1"))
    requests = tuple(map(Request, texts_of(entry, "sents")))
    return Pair(name, source, target, requests, json.dumps({"uid": text_of(entry, "uid")}))
