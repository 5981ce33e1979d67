"""A study of a split -> what is said of it: each finding with what to do, and whether a training would stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from datamodules.browse.charts import median
from datamodules.check.study import Study
from datamodules.faults import REASONS

State = Literal["fine", "look", "stops"]
MANY = 20
"""Samples from which on one instruction for all of them is worth a word."""
SHARE = 0.01
"""Of samples that a note concerns, below which it is not worth a word of advice."""
NOTES: Mapping[str, tuple[str, str, str]] = {
    "target alone": ("pairs", "have a target and no source", "as for text to image; edits need both"),
    "source alone": ("pairs", "have a source and no target", "they count in no loss of an edit; find their targets"),
    "no picture": ("pairs", "have no picture", "as for language models; edits need both"),
    "unchanged": ("pairs", "have a target that is their source", "they teach to do nothing; leave them out"),
    "no text": ("texts", "have no text", "they are trained on without words; give them an instruction or a caption"),
    "no instruction": ("texts", "are pairs without an instruction", "write one: what leads from source to target"),
    "long": ("texts", "have a text that is longer than the tokenizer takes", "its end is cut; shorten it"),
    "small": ("sizes", "have pictures smaller than they are trained at", "they are enlarged; lower the resolution"),
    "duplicate": ("duplicates", "are the same as an earlier sample", "they weigh more than others; leave them out"),
    "near duplicate": ("duplicates", "are nearly the same as an earlier sample", "look at them, and leave out what is"),
}
"""What is noted -> under which name it is told, how, and what to do about it."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at in a split.

    Attributes:
        name: what it is. found: how it is. state: fine, worth a look, or a reason for a training to stop.
        advice: what to do; "" where nothing has to be done. notes: names in `Study.examples` of what it is about.
    """

    name: str
    found: str
    state: State = "fine"
    advice: str = ""
    notes: tuple[str, ...] = ()


def verdict(study: Study, needs: Sequence[str] = (), max_bad_fraction: float = 0.01) -> list[Finding]:
    """What is said of a split.

    Args:
        study: of its samples. needs: fields without which nothing can be trained. max_bad_fraction: of samples that
            cannot be used, above which a run stops (`data.init_args.max_bad_fraction`).
    """
    if not study.survey.read:
        return [Finding("samples", "none", "stops", "write some, or name another folder")]
    return [
        _readable(study, max_bad_fraction),
        _fields(study, needs),
        _noted(study, "pairs"),
        _noted(study, "texts"),
        _instructions(study),
        _sizes(study),
        _noted(study, "duplicates"),
    ]


def good(study: Study) -> int:
    """Samples that can be used."""
    return study.survey.read - study.survey.bad.total()


def _readable(study: Study, max_bad_fraction: float) -> Finding:
    read, bad = study.survey.read, study.survey.bad.total()
    if not bad:
        return Finding("samples", f"{read:,} read, all of them can be used")
    reasons: dict[str, int] = {}
    for (reason, _), count in study.survey.bad.items():
        reasons[reason] = reasons.get(reason, 0) + count
    told = ", ".join(f"{reason} {count:,} ({REASONS.get(reason, reason)})" for reason, count in reasons.items())
    first = next(iter(study.survey.examples.values()))[0]
    found = f"{bad:,} of {read:,} read cannot be used: {told}; the first: {first['key'] or first['shard']}"
    stops = bad > max_bad_fraction * read
    advice = f"more than max_bad_fraction={max_bad_fraction:g} allows: mend them, or leave them out"
    return Finding("samples", found, "stops" if stops else "look", advice if stops else "they are skipped and counted")


def _fields(study: Study, needs: Sequence[str]) -> Finding:
    there, total = study.survey.fields, good(study)
    found = ", ".join(f"{name} {count / total:.0%}" for name, count in there.most_common()) if total else "none"
    lacking = [name for name in needs if not there[name]]
    if lacking:
        advice = f"no sample has {' or '.join(lacking)}, without which none counts in a loss: give data that have it"
        return Finding("fields", found, "stops", advice)
    return Finding("fields", found)


def _noted(study: Study, name: str) -> Finding:
    """One line of everything that is noted under one name."""
    total = max(good(study), 1)
    notes = [note for note, (where, _, _) in NOTES.items() if where == name and study.noted[note]]
    if not notes:
        return Finding(name, {"pairs": "whole", "texts": "every sample has one", "duplicates": "none"}[name])
    told = [f"{study.noted[note]:,} ({study.noted[note] / total:.1%}) {NOTES[note][1]}" for note in notes]
    many = [note for note in notes if study.noted[note] > SHARE * total] or notes[:1]
    return Finding(name, "; ".join(told), "look", "; ".join(NOTES[note][2] for note in many), tuple(notes))


def _instructions(study: Study) -> Finding:
    counts = study.instructions
    total, different = counts.total(), len(counts)
    if not total:
        return Finding("words", "no instructions")
    text, most = counts.most_common(1)[0]
    found = f"{different:,} different of {total:,} instructions"
    if total >= MANY and different == 1:
        advice = "an editor learns to do this whatever it is told; that is as it should be for one edit alone"
        return Finding("words", f"every instruction is {text!r}", "look", advice)
    if total >= MANY and most > total / 2:
        return Finding("words", f"{found}, {most / total:.0%} are {text!r}", "look", "one edit will drown the others")
    return Finding("words", found)


def _sizes(study: Study) -> Finding:
    sides = study.survey.short_sides
    if not sides:
        return Finding("sizes", "no pictures")
    found = f"shorter sides of {min(sides):,} to {max(sides):,} pixels, {median(sides):,} in the middle"
    found = found if len(sides) > 1 else f"every shorter side has {min(sides):,} pixels"
    if not (count := study.noted["small"]):
        return Finding("sizes", found)
    told = f"{found}; {count:,} samples are smaller than the {study.resolution} pixels that they are trained at"
    return Finding("sizes", told, "look", NOTES["small"][2], ("small",))


def leaks(studies: Mapping[str, Study]) -> list[Finding]:
    """Source pictures of training that stand in another split too; nothing where there is no split to compare.

    Args:
        studies: by split, or "SPLIT: FOLDER" where it has several.
    """
    trained = {picture for name, study in studies.items() if _split(name) == "train" for picture in study.sources}
    found = []
    for name, study in studies.items():
        if _split(name) == "train" or not study.sources or not trained:
            continue
        shared = [key for picture, key in study.sources.items() if picture in trained]
        if shared:
            told = f"{len(shared):,} of {len(study.sources):,} source pictures of {name} are in training too"
            advice = "scores on them are too good; split by source picture"
            found.append(Finding("splits", f"{told}, first that of {shared[0]}", "look", advice))
        else:
            found.append(Finding("splits", f"no source picture of {name} is among those of training that were read"))
    return found


def _split(name: str) -> str:
    return name.partition(":")[0]
