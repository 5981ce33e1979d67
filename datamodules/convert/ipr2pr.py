"""InstructPix2Pix's dataset: the published folders or zip files, and the parquet copy on the hub.

Layout and split as in its repository (`reference`: InstructPix2Pix, Brooks et al. 2023, dataset and `EditDataset`):
folders named by a prompt number of 7 digits hold `prompt.json`, `{seed}_0.jpg`, `{seed}_1.jpg` and `metadata.jsonl`;
`seeds.json` lists them, and its first 90 % are for training, the next 5 % for validation, the last 5 % for testing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from datamodules.convert.files import parse_json
from datamodules.convert.prompts import FOLDER, Prompt, find_prompts
from datamodules.convert.source import ConversionError, Finding, Source
from datamodules.convert.table_source import TableSource
from datamodules.faults import BadSample
from datamodules.schema import Sample

PUBLISHED = {313_010: "clip-filtered", 451_990: "random-sample"}
"""Prompts of the two published sets."""
_SEED = re.compile(r"\d{1,20}")


def by_position(items: Sequence[Any]) -> dict[str, Sequence[Any]]:
    """90 % / 5 % / 5 % by position, with the floors that the published code takes (of floating-point products)."""
    first, second = (math.floor(share * len(items)) for share in (0.9, 0.9 + 0.05))
    return {"train": items[:first], "val": items[first:second], "test": items[second:]}


def _check_prompts(source: Source, splits: Mapping[str, Sequence[Any]]) -> None:
    if (found := sum(map(len, splits.values()))) not in PUBLISHED:
        known = " or ".join(f"{count:,} ({name})" for count, name in PUBLISHED.items())
        raise ConversionError(
            f"{source.source}: {found:,} prompts, the published sets have {known}; the split goes by position, so it "
            "needs the whole set: fetch the rest, or say that this is a part with --partial"
        )


@dataclass(frozen=True)
class IPr2PrFolders(Source):
    """The published folders, zip files of them, or both.

    Attributes:
        seeds: "all" makes a sample of each of a prompt's seeds, "first" of its first one only.
    """

    name: ClassVar[str] = "ipr2pr"
    required: ClassVar[tuple[str, ...]] = ("source", "target", "instruction")
    samples_per_item: ClassVar[int] = 4  # the filter kept at most four seeds a prompt
    seeds: Literal["all", "first"] = "all"

    def splits(self) -> dict[str, Sequence[Any]]:
        """The prompts in the order of seeds.json, 90 / 5 / 5 by position."""
        prompts = find_prompts(self.source)
        if self.seeds == "first":
            prompts = [prompt._replace(seeds=prompt.seeds[:1]) for prompt in prompts]
        return by_position(prompts)

    def check_totals(self, splits: Mapping[str, Sequence[Any]]) -> None:
        """All prompts together must be those of a published set."""
        _check_prompts(self, splits)

    def samples_of(self, item: Prompt) -> Iterator[Sample | Finding]:
        """A sample a seed; a seed whose pictures are missing is dropped alone."""
        if not FOLDER.fullmatch(item.name):
            raise BadSample("outside", f"seeds.json names {item.name[:200]!r}, no folder of 7 digits")
        texts = parse_json(item.place.read(Path(self.source), "prompt.json"), "prompt.json")
        if not isinstance(texts, dict) or not isinstance(texts.get("edit"), str):
            raise BadSample("field", "prompt.json: expected an object with the text 'edit'")
        fields = {"instruction": texts["edit"], "target_caption": texts.get("output")}
        fields["source_caption"] = texts.get("input", texts.get("caption"))  # the release, and its generator
        fields = {name: text for name, text in fields.items() if isinstance(text, str)}
        try:
            notes = self._metadata(item)
        except BadSample as bad:
            notes = {}
            yield Finding("notes", item.name, bad.detail, dropped=False)
        for seed in item.seeds or ("",):
            try:
                yield self._sample(item, seed, fields, notes.get(seed, {}))
            except BadSample as bad:
                yield Finding(bad.reason, f"{item.name}_{seed}", bad.detail)

    def describe(self, item: Prompt) -> str:
        """The folder's number."""
        return item.name

    def bytes_of(self, item: Prompt) -> int:
        """The bytes of its pictures."""
        root = Path(self.source)
        return sum(item.place.size(root, f"{seed}_{side}.jpg") for seed in item.seeds for side in (0, 1))

    def _sample(self, item: Prompt, seed: str, fields: dict[str, str], notes: dict[str, Any]) -> Sample:
        if not _SEED.fullmatch(seed):
            raise BadSample("field", f"seeds.json: expected seeds of digits, found {seed[:200]!r}")
        source, target = (item.place.read(Path(self.source), f"{seed}_{side}.jpg") for side in (0, 1))
        metadata = {**notes, "prompt": item.name, "seed": seed, "position": item.position}
        return {"key": f"{item.name}_{seed}", "source": source, "target": target, **fields, "metadata": metadata}

    def _metadata(self, item: Prompt) -> dict[str, dict[str, Any]]:
        """Seed -> its line of metadata.jsonl."""
        lines = item.place.read(Path(self.source), "metadata.jsonl").splitlines()
        notes = [parse_json(line, "metadata.jsonl") for line in lines]
        return {str(note["seed"]): note for note in notes if isinstance(note, dict) and "seed" in note}


@dataclass(frozen=True)
class IPr2PrTable(TableSource):
    """The parquet copies on the hub: one seed a prompt, no seed number and no CLIP similarities."""

    name: ClassVar[str] = "ipr2pr"
    required: ClassVar[tuple[str, ...]] = ("source", "target", "instruction")

    def columns(self) -> Mapping[str, str]:
        """Of the clip-filtered copy; `columns_of` handles the other names in use."""
        return {
            "source": "original_image",
            "target": "edited_image",
            "instruction": "edit_prompt",
            "source_caption": "original_prompt",
            "target_caption": "edited_prompt",
        }

    def splits(self) -> dict[str, Sequence[Any]]:
        """All rows in their order, 90 / 5 / 5 by position."""
        tables = super().splits()
        if set(tables) != {"train"}:
            raise ConversionError(f"{self.source}: expected the one split 'train', found {sorted(tables)}")
        return {split: replace(rows, split=split) for split, rows in by_position(tables["train"]).items()}

    def sample_of(self, key: str, row: dict[str, Any]) -> Sample:
        """As for any table; some copies call the first picture `input_image`."""
        renamed = row if "original_image" in row else {**row, "original_image": row.get("input_image")}
        if any(renamed.get(column) is None for column in ("original_image", "edited_image", "edit_prompt")):
            raise BadSample("field", f"expected original_image, edit_prompt and edited_image, found {sorted(row)}")
        return super().sample_of(key, renamed)

    def check_totals(self, splits: Mapping[str, Sequence[Any]]) -> None:
        """All rows together must be those of a published set."""
        _check_prompts(self, splits)


def ipr2pr(source: str, seeds: Literal["all", "first"] = "all", config: str | None = None) -> Source:
    """InstructPix2Pix's dataset.

    Args:
        source: the folder with seeds.json and the prompts' folders or zip files; or a folder of parquet files or a name
            on the hub, such as timbrooks/instructpix2pix-clip-filtered.
        seeds: a sample of "all" seeds of a prompt, or of its "first" one only.
        config: configuration of a dataset on the hub.
    """
    folder = Path(source)
    if folder.is_dir() and ((folder / "seeds.json").exists() or not any(folder.rglob("*.parquet"))):
        return IPr2PrFolders(source, seeds)
    return IPr2PrTable(source, config)
