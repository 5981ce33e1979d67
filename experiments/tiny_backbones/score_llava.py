"""Measure the exported LLaVA on held-out samples, as MGIE and LGIE ask it: is what it writes the edit that is meant?

Called by `score`. A text is right where it leads to the edit and names its object by what it looks like; one that
leaves "the odd one out" to the picture is not.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from datamodules.schema import Batch
from experiments.tiny_backbones.scoring import Scores
from mmig.methods.mgie.export import load_writer
from mmig.methods.mgie.writer import InstructionWriter, WriterConfig

EditJudge = Callable[[str, Any, Any], bool]
"""(text, source scene, target scene of the metadata) -> whether the text asks for that edit."""
NameJudge = Callable[[str, Any, Any], bool]
"""(text, object, source scene of the metadata) -> whether the text is about that object, by what it looks like."""
CONDITIONS = ("seeing", "blind", "other picture")
"""With the picture; the same prompt without it; with the picture of the sample before."""
KINDS = ("literal", "visual", "inferable")
MAX_NEW_TOKENS = 40


def open_writer(folder: Path, sees: bool) -> InstructionWriter:
    """MGIE's language model, or LGIE's, of an exported folder, before any training of theirs."""
    return load_writer(folder, folder, sees, WriterConfig())


def write_all(writers: dict[bool, InstructionWriter], batch: Batch) -> dict[str, list[str]]:
    """What is written about each sample by greedy search, by condition; `writers` by whether they see."""
    visual = writers[True].visual_tokens(batch["source"])
    assert visual is not None  # it sees
    shown = {"seeing": visual, "blind": None, "other picture": visual.roll(1, dims=0)}
    texts = {}
    for name, tokens in shown.items():
        writer = writers[tokens is not None]
        written = writer.write(batch["instruction"], tokens, MAX_NEW_TOKENS)
        texts[name] = writer.tokenizer.batch_decode(written.ids)
    return texts


def score_llava(folder: Path, batches: Iterable[Batch], edit_judge: EditJudge, name_judge: NameJudge) -> Scores:
    """Shares by condition and kind of instruction: "seeing/visual", "blind/literal", ...

    - CONDITION/KIND: right; of "seeing" by edit type too, of visual ones by how the instruction calls the object;
    - named/CONDITION/KIND: the right object named, among samples whose edit is of an object that is there;
    - led/CONDITION/visual: leads to the edit, the object named or left to the picture;
    - chance/KIND: the right object by a guess among those that are there.
    """
    writers = {sees: open_writer(folder, sees) for sees in (True, False)}
    found: dict[str, list[float]] = defaultdict(list)
    for batch in batches:
        with torch.no_grad():
            texts = write_all(writers, batch)
        for row, known in enumerate(batch["metadata"]):
            kind, edit = known["kind"], known["edit"]
            for condition, written in texts.items():
                leads, named = verdict(written[row], known, edit_judge, name_judge)
                found[f"{condition}/{kind}"].append(leads and named is not False)
                if condition == "seeing":
                    part = edit["referent"] or batch["edit_type"][row]
                    found[f"seeing/{kind}/{part}"].append(leads and named is not False)
                if kind == "visual":
                    found[f"led/{condition}/{kind}"].append(leads)
                if named is not None:
                    found[f"named/{condition}/{kind}"].append(named)
            if edit["before"] is not None:
                found[f"chance/{kind}"].append(1 / len(known["source_scene"]["things"]))
    order = sorted(found, key=lambda name: (name.count("/"), name))
    counts = {f"samples/{kind}": float(len(found[f"seeing/{kind}"])) for kind in KINDS if f"seeing/{kind}" in found}
    return counts | {name: sum(found[name]) / len(found[name]) for name in order}


def verdict(text: str, known: Any, edit_judge: EditJudge, name_judge: NameJudge) -> tuple[bool, bool | None]:
    """Whether a text leads to a sample's edit, and whether it names its object (None: the edit has none before it).

    Args:
        text: what was written.
        known: the sample's metadata.
        edit_judge, name_judge: of the data set.
    """
    before, source = known["edit"]["before"], known["source_scene"]
    leads = edit_judge(text, source, known["target_scene"])
    return leads, None if before is None else name_judge(text, before, source)
