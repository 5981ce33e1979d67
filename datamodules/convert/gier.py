"""GIER (Shi et al. 2020, "A Benchmark and Baseline for Language-Driven Image Editing").

Layout: `splits/{train,val,test}_sess_3.json`, lists of `input`, `output`, `operator` (name -> `local`, `ids` of masks),
`expert_summary`, `amateur_summary` and the original `request`; `images`; `masks/{input's stem}_mask.json`, a list of
run-length encoded regions; and lists of numbers of entries, such as `splits/{split}_global_sess_3.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from datamodules.convert.files import MAX_JSON_BYTES, parse_json, read_annotations, read_file
from datamodules.convert.pairs import Pair, PairSource, Request, find_file, text_of, texts_of
from datamodules.convert.rle import decode_rle
from datamodules.convert.source import ConversionError, Finding
from datamodules.faults import BadSample

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
    files: ClassVar[Mapping[str, str]] = {split: f"{split}_sess_3.json" for split in ("train", "val", "test")}
    folders: ClassVar[tuple[str, ...]] = ("splits", "", "data/GIER/splits")
    pictures: ClassVar[tuple[str, ...]] = ("images/", "data/GIER/images/", "")
    first: ClassVar[str] = "input"

    def splits(self) -> dict[str, Sequence[Any]]:
        """The authors' splits; metadata names the authors' subsets that a pair is in."""
        return {split: list(self._with_subsets(split, pairs)) for split, pairs in super().splits().items()}

    def pair(self, name: str, prefix: str, entry: dict[str, Any]) -> Pair:
        """Pictures `input` and `output`, requests `expert_summary` and `amateur_summary`."""
        source, target = (prefix + text_of(entry, side) for side in ("input", "output"))
        requests = tuple(
            Request(text, json.dumps({"by": by}))
            for by in ("expert", "amateur")
            for text in texts_of(entry, f"{by}_summary")
        )
        names = ("request", "detailed_request", "dataset")
        original = {field: text for field in names if (text := text_of(entry, field))}
        notes = {**original, "operators": _operators(entry.get("operator"))}
        return Pair(name, source, target, requests, json.dumps(notes))

    def more_of(self, item: Pair, size: tuple[int, int]) -> tuple[dict[str, Any], list[Finding]]:
        """The union of the regions that local operators name, as the target's mask; none where all are global."""
        operators = json.loads(item.notes)["operators"]
        wanted = {number for operator in operators.values() for number in operator["ids"]}
        if not wanted:
            return {}, []
        folder, _, name = item.source.rpartition("/")
        masks = f"{folder.removesuffix('images')}masks/{PurePath(name).stem}_mask.json"
        try:
            regions = parse_json(read_file(Path(self.source), masks, MAX_JSON_BYTES), masks)
            return {"target_mask": _union(regions, wanted, size)}, []
        except BadSample as bad:
            return {}, [Finding("mask", item.name, bad.detail, dropped=False)]

    def _with_subsets(self, split: str, pairs: Sequence[Pair]) -> Iterator[Pair]:
        subsets = {name: numbers for name in _SUBSETS if (numbers := self._subset(split, name))}
        for number, pair in enumerate(pairs):
            names = sorted(name for name, numbers in subsets.items() if number in numbers)
            yield pair._replace(notes=json.dumps({**json.loads(pair.notes), "subsets": names}))

    def _subset(self, split: str, name: str) -> set[int]:
        """Numbers of the entries of a split that one of the authors' lists names; none where it is not there."""
        path = find_file(Path(self.source), self.folders, f"{split}_{name}_sess_3.json")
        numbers = read_annotations(path) if path else []
        if wrong := next((number for number in numbers if type(number) is not int), None):
            raise ConversionError(f"{path}: expected a list of numbers, found {str(wrong)[:80]!r} in it")
        return set(numbers)


def _union(regions: Any, wanted: set[int], size: tuple[int, int]) -> Image.Image:
    if not isinstance(regions, list) or max(wanted) >= len(regions):
        raise BadSample("mask", f"expected at least {max(wanted) + 1} regions")
    union = np.zeros(size[::-1], np.uint8)
    for number in sorted(wanted):
        region = decode_rle(regions[number])
        union |= np.asarray(region if region.size == size else region.resize(size, Image.Resampling.NEAREST))
    return Image.fromarray(union)


def _operators(found: Any) -> dict[str, dict[str, Any]]:
    """Operators as `{name: {"local": bool, "ids": [int]}}`; ids only of local ones, and only numbers."""
    operators = {}
    for name, how in (found if isinstance(found, dict) else {}).items():
        how = how if isinstance(how, dict) else {}
        local, ids = bool(how.get("local")), how.get("ids")
        numbers = [n for n in ids if type(n) is int and n >= 0] if local and isinstance(ids, list) else []
        operators[name] = {"local": local, "ids": numbers}
    return operators
