"""GIER (Shi et al. 2020, "A Benchmark and Baseline for Language-Driven Image Editing").

Layout: `splits/{train,val,test}_sess_3.json`, lists of `input`, `output`, `operator` (name -> `local`, `ids` of masks),
`expert_summary`, `amateur_summary` and the original `request`; `images`; `masks/{input's stem}_mask.json`, a list of
run-length encoded regions; and lists of numbers of entries, such as `splits/{split}_global_sess_3.json`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from datamodules.convert.files import parse_json, read_annotations, read_file
from datamodules.convert.pairs import Pair, PairSource, Request, find_pictures, read_splits, text_of, texts_of
from datamodules.convert.rle import decode_rle
from datamodules.convert.source import Finding
from datamodules.faults import BadSample

_FILES = {split: f"{split}_sess_3.json" for split in ("train", "val", "test")}
_FOLDERS = ("splits", "", "data/GIER/splits")
_PICTURES = ("images/", "data/GIER/images/", "")
_SUBSETS = ("global", "shapeAlign", "shapeAlignNonCrop", "Ids_L1Thr_0.06")


@dataclass(frozen=True)
class GIER(PairSource):
    """Each pair with the requests of experts and of amateurs; the regions of its local operators are the mask."""

    name: ClassVar[str] = "gier"
    samples_per_item: ClassVar[int] = 5  # on average
    published: ClassVar[Mapping[str, Mapping[str, int]]] = {
        "train": {"pairs": 4943, "requests": 23_898},
        "val": {"pairs": 618, "requests": 3004},
        "test": {"pairs": 618, "requests": 2969},
    }

    def splits(self) -> dict[str, Sequence[Any]]:
        """The authors' splits; metadata names the authors' subsets that a pair is in."""
        root = Path(self.source)
        entries = read_splits(root, _FILES, _FOLDERS)
        prefix = find_pictures(self.source, _PICTURES, [text_of(e, "input") for part in entries.values() for e in part])
        splits = {}
        for split, part in entries.items():
            subsets = _subsets(root, split)
            splits[split] = [
                _pair(f"{split}-{n:05d}", prefix, entry, sorted(name for name in subsets if n in subsets[name]))
                for n, entry in enumerate(part)
            ]
        return splits

    def more_of(self, item: Pair, size: tuple[int, int]) -> tuple[dict[str, Any], list[Finding]]:
        """The union of the regions that local operators name, as the target's mask; none where all are global."""
        operators = json.loads(item.notes)["operators"]
        wanted = {number for operator in operators.values() for number in operator["ids"]}
        if not wanted:
            return {}, []
        folder, _, name = item.source.rpartition("/")
        masks = f"{folder.removesuffix('images')}masks/{PurePath(name).stem}_mask.json"
        try:
            regions = parse_json(read_file(Path(self.source), masks), masks)
            return {"target_mask": _union(regions, wanted, size)}, []
        except BadSample as bad:
            return {}, [Finding("mask", item.name, bad.detail, dropped=False)]


def _union(regions: Any, wanted: set[int], size: tuple[int, int]) -> Image.Image:
    if not isinstance(regions, list) or max(wanted) >= len(regions):
        raise BadSample("mask", f"expected at least {max(wanted) + 1} regions")
    union = np.zeros(size[::-1], np.uint8)
    for number in sorted(wanted):
        region = decode_rle(regions[number])
        union |= np.asarray(region if region.size == size else region.resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(union)


def _subsets(root: Path, split: str) -> dict[str, set[int]]:
    """Name -> numbers of the entries of a split, for the lists that are there."""
    found = {}
    for name in _SUBSETS:
        file = f"{split}_{name}_sess_3.json"
        path = next((path for folder in _FOLDERS if (path := root / folder / file).is_file()), None)
        if path is not None:
            found[name] = set(read_annotations(path))
    return found


def _pair(name: str, prefix: str, entry: dict[str, Any], subsets: list[str]) -> Pair:
    source, target = (prefix + text_of(entry, side) for side in ("input", "output"))
    requests = tuple(
        Request(text, json.dumps({"by": by}))
        for by in ("expert", "amateur")
        for text in texts_of(entry, f"{by}_summary")
    )
    original = {field: text for field in ("request", "detailed_request", "dataset") if (text := text_of(entry, field))}
    notes = {**original, "operators": _operators(entry.get("operator")), "subsets": subsets}
    return Pair(name, source, target, requests, json.dumps(notes))


def _operators(found: Any) -> dict[str, dict[str, Any]]:
    """Operators as `{name: {"local": bool, "ids": [int]}}`; ids only of local ones, and only numbers."""
    operators = {}
    for name, how in (found if isinstance(found, dict) else {}).items():
        how = how if isinstance(how, dict) else {}
        local, ids = bool(how.get("local")), how.get("ids")
        numbers = [n for n in ids if type(n) is int and n >= 0] if local and isinstance(ids, list) else []
        operators[name] = {"local": local, "ids": numbers}
    return operators
