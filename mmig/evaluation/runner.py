"""Run any editor over batches for several seeds and collect per-sample metric values."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmig.base.batches import move_batch, readable
from mmig.editor import Editor, EditOutput, KnowsSeeds, check_fields
from mmig.evaluation.grid import Example, varied
from mmig.evaluation.rows import SampleRow, deduplicate, gather, tell_apart
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import NOT_FINITE, SampleValues
from mmig.metrics.images import signed_to_unit, to_bytes
from mmig.metrics.suite import MetricSuite
from mmig.training.rng import sample_generators

logger = logging.getLogger(__name__)
NO_PICTURE = "no_picture"
"""Reason why no metric has a value of a sample that the editor has no image of."""


@dataclass
class EvaluationResult:
    """Rows of all ranks without duplicates, and what happened on the way.

    Attributes:
        rows: one a (key, seed), sorted.
        seeds: sampling seeds.
        response_source: where the response came from, "given", "generated" or "none".
        examples: images of the first samples, for a grid.
        num_duplicates: rows dropped because their sample's (key, seed) was there already.
        faults: unusable samples of the stream by reason.
    """

    rows: list[SampleRow]
    seeds: list[int]
    response_source: str
    examples: list[Example] = field(default_factory=list)
    num_duplicates: int = 0
    faults: dict[str, int] = field(default_factory=dict)


@torch.no_grad()
def evaluate_editor(
    editor: Editor,
    batches: Iterable[Mapping[str, Any]],
    suite: MetricSuite,
    seeds: Iterable[int] = (0,),
    *,
    device: torch.device | str = "cpu",
    num_examples: int = 8,
    progress: Callable[[int], None] | None = None,
    on_edits: Callable[[int, Mapping[str, Any], EditOutput], None] | None = None,
) -> EvaluationResult:
    """Edit every sample once a seed and score it.

    Under torch.distributed every rank calls this with its part of the data; all ranks return the same result.

    Args:
        editor: any `Editor`.
        batches: batches of the schema; a sample may occur more than once, a fault only on one rank. Where they come
            from a stream (they have `repeated`), the same key at another position is another sample.
        suite: the metrics; they also keep their own states (sum, count), which count duplicates.
        seeds: sampling seeds.
        device: where batches are moved to.
        num_examples: how many examples to keep for a grid, of as many edit types as there are.
        progress: called with the number of edits just done.
        on_edits: called with the seed, the batch and its edits, of this rank.

    Raises:
        MissingFieldError: if a sample lacks a field that the editor requires.
        ValueError: if there is no sample.
    """
    seeds, found = list(seeds), _Found(num_examples)
    for whole_batch in batches:
        found.faults.update(fault["reason"] for fault in whole_batch.get("faults", ()))
        batch = move_batch(readable(whole_batch), device)
        check_fields(editor, batch)
        bank = None
        for seed in seeds if batch["key"] else ():
            of_seed = editor.at_seed(seed) if isinstance(editor, KnowsSeeds) else editor
            output = of_seed(batch, sample_generators(seed, batch["key"]))
            written = {"response": output.texts, "caption": output.extras.get("captions") or ()}
            remake = partial(suite.bank, batch) if bank is None else bank.with_edited
            bank = remake(output.images, written, output.extras)
            rows = _rows(batch, output, seed, suite.update(bank), bank.truncated())
            _add_features(rows, suite, bank, output, with_targets=seed == seeds[0])
            found.rows.extend(zip(_positions(batch), rows, strict=True))
            if seed == seeds[0]:
                found.show(batch, output)
            if on_edits is not None:
                on_edits(seed, batch, output)
            if progress is not None:
                progress(len(bank))
    return found.gathered(seeds, editor.response_source)


@dataclass
class _Found:
    """What one rank has collected."""

    num_examples: int
    rows: list[tuple[int | None, SampleRow]] = field(default_factory=list)
    examples: list[Example] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)

    def show(self, batch: Mapping[str, Any], output: EditOutput) -> None:
        """Keep the first examples of every edit type."""
        seen = Counter(example.edit_type for example in self.examples)
        for example in collect_examples(batch, output):
            if seen[example.edit_type] < self.num_examples:
                seen[example.edit_type] += 1
                self.examples.append(example)

    def gathered(self, seeds: list[int], response_source: str) -> EvaluationResult:
        """The results of all ranks as one."""
        rows, num_duplicates = deduplicate(tell_apart(gather(self.rows)))
        if not rows:
            raise ValueError("evaluation: expected at least one sample, found none; check the split and --limit")
        faults = sum((Counter(part) for part in gather([dict(self.faults)])), Counter())
        examples = varied({example.key: example for example in gather(self.examples)}.values(), self.num_examples)
        return EvaluationResult(rows, seeds, response_source, examples, num_duplicates, dict(faults))


def _add_features(
    rows: list[SampleRow], suite: MetricSuite, bank: FeatureBank, output: EditOutput, with_targets: bool
) -> None:
    """Give rows what metrics of sets compare, or the reason why they have no part in them."""
    features = {name: value.cpu() for name, value in suite.features(bank).items()}
    missing = output.extras.get("missing") or [False] * len(rows)
    has_target = bank.has_image("target").tolist()
    for number, row in enumerate(rows if features else ()):
        of_row = {name: value[number] for name, value in features.items()}
        if missing[number]:
            reason = NO_PICTURE
        elif not has_target[number]:
            reason = "no_target"
        elif not all(value.isfinite().all() for value in of_row.values()):
            reason = NOT_FINITE
        else:
            kept = of_row if with_targets else {"edited": of_row["edited"]}
            row.features = {name: value.numpy() for name, value in kept.items()}
            continue
        row.skipped |= dict.fromkeys(suite.sets, reason)


def collect_examples(batch: Mapping[str, Any], output: EditOutput) -> list[Example]:
    """What a grid shows of every sample of a batch of which there is an image."""
    images = {name: to_bytes(signed_to_unit(batch[name], name)) for name in ("source", "target") if name in batch}
    edited = to_bytes(signed_to_unit(output.images, "edited"))
    missing = output.extras.get("missing") or [False] * len(batch["key"])
    return [
        Example(
            key=key,
            source=images["source"][row].numpy() if _has(batch, "source", row) else None,
            edited=edited[row].numpy(),
            target=images["target"][row].numpy() if _has(batch, "target", row) else None,
            instruction=batch["instruction"][row] or batch["response"][row] or batch["target_caption"][row],
            edit_type=batch["edit_type"][row],
            references=_references(batch, row),
        )
        for row, key in enumerate(batch["key"])
        if not missing[row]
    ]


def _references(batch: Mapping[str, Any], row: int) -> tuple[NDArray[np.uint8], ...]:
    """Attached pictures of a sample; an answer is none that the editor has seen."""
    if "attachment_images" not in batch:
        return ()
    images, flags = batch["attachment_images"][row], batch["has_attachment_images"][row].tolist()
    roles = batch["attachment_roles"][row]
    shown = [number for number, there in enumerate(flags) if there and roles[number] != "answer"]
    return tuple(to_bytes(signed_to_unit(images[shown], "attachment_images")).numpy())


def _positions(batch: Mapping[str, Any]) -> list[int | None]:
    """Place of each sample in the split; None for one that repeats another, and where no stream says which do."""
    if "repeated" not in batch:
        return [None] * len(batch["key"])
    places = zip(batch["position"].tolist(), batch["repeated"].tolist(), strict=True)
    return [None if repeated else position for position, repeated in places]


def _has(batch: Mapping[str, Any], name: str, row: int) -> bool:
    return name in batch and bool(batch.get(f"has_{name}", torch.ones(row + 1, dtype=torch.bool))[row])


def _rows(
    batch: Mapping[str, Any],
    output: EditOutput,
    seed: int,
    scored: Mapping[str, SampleValues],
    truncated: Mapping[str, Tensor],
) -> list[SampleRow]:
    rows, missing = [], output.extras.get("missing") or [False] * len(batch["key"])
    unread = output.extras.get("cut") or [()] * len(batch["key"])
    for row, key in enumerate(batch["key"]):
        cut = {name for name, is_cut in truncated.items() if bool(is_cut[row])}
        reasons = {name: NO_PICTURE if missing[row] else values.reasons[row] for name, values in scored.items()}
        values = {name: None if reasons[name] else float(scored[name].values[row]) for name in scored}
        rows.append(
            SampleRow(
                key=key,
                seed=seed,
                edit_type=batch["edit_type"][row],
                values=values,
                skipped={name: reason for name, reason in reasons.items() if reason},
                instruction=batch["instruction"][row],
                text=output.texts[row] if output.texts else "",
                truncated=sorted(cut | {f"{text.name} ({text.reader})" for text in unread[row]}),
            )
        )
    return rows
