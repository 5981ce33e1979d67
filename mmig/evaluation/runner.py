"""Run any editor over batches for several seeds and collect per-sample metric values."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datamodules.schema import Batch, take
from mmig.base.batches import move_batch, readable
from mmig.editor import Editor, EditOutput, KnowsSeeds, check_fields
from mmig.evaluation.examples import PlacedExample, chosen, edited_pixels, examples_of, places
from mmig.evaluation.grid import Example
from mmig.evaluation.rows import SampleRow, deduplicate, gather, tell_apart
from mmig.evaluation.unfinished import FinishedEdit
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import NO_PICTURE, NOT_FINITE, SampleValues
from mmig.metrics.suite import MetricSuite
from mmig.training.rng import sample_generators

logger = logging.getLogger(__name__)


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
    context: Callable[[], AbstractContextManager[Any]] = nullcontext,
    num_examples: int = 8,
    progress: Callable[[int], None] | None = None,
    on_pictures: Callable[[int, Mapping[str, Any], EditOutput], None] | None = None,
    on_edits: Callable[[list[FinishedEdit]], None] | None = None,
    finished: Iterable[FinishedEdit] = (),
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
        context: in which the editor works (autocast); the metrics are outside of it.
        num_examples: how many examples to keep for a grid, of as many edit types as there are.
        progress: called with the number of edits just done.
        on_pictures: called with the seed, the batch and its edits, of this rank.
        on_edits: called next, with what the edits of that batch under that seed scored.
        finished: what such calls were given in an earlier process, on whatever rank and in whatever batches: these
            samples are read, but not edited. The same list on every rank.

    Raises:
        MissingFieldError: if a sample lacks a field that the editor requires.
        ValueError: if there is no sample.
    """
    seeds, found = list(seeds), _Found(num_examples, {edit.identity: edit for edit in finished})
    shown: Counter[str] = Counter()
    for whole_batch in batches:
        batch = readable(whole_batch)
        found.see(batch, seeds)
        check_fields(editor, batch)
        bank = of_bank = None
        for seed, part in found.left(batch, seeds, device):
            of_seed = editor.at_seed(seed) if isinstance(editor, KnowsSeeds) else editor
            output = _timed(of_seed, part, sample_generators(seed, part["key"]), context)
            written = {"response": output.texts, "caption": output.extras.get("captions") or ()}
            remake = bank.with_edited if bank is not None and part is of_bank else partial(suite.bank, part)
            bank, of_bank = remake(output.images, written, output.extras), part
            rows = _rows(part, output, seed, suite.update(bank), bank)
            _add_features(rows, suite, bank, output, with_targets=seed == seeds[0])
            pictures = found.show(part, output, shown) if seed == seeds[0] else [None] * len(rows)
            of_rows = zip(rows, places(part), _positions(part), pictures, strict=True)
            edits = [FinishedEdit(*of_row) for of_row in of_rows]
            found.rows += [(edit.position, edit.row) for edit in edits]
            if on_pictures is not None:
                on_pictures(seed, part, output)
            if on_edits is not None:
                on_edits(edits)
            if progress is not None:
                progress(len(edits))
    return found.gathered(seeds, editor.response_source)


def _timed(
    editor: Editor,
    batch: Batch,
    generators: list[torch.Generator],
    context: Callable[[], AbstractContextManager[Any]],
) -> EditOutput:
    """The edits of a batch, told how long each took: its share of the batch's seconds (`edit_seconds`)."""
    begun = time.perf_counter()
    with context():
        output = editor(batch, generators)
    if output.images.is_cuda:
        torch.cuda.synchronize(output.images.device)
    seconds = (time.perf_counter() - begun) / len(batch["key"])
    return replace(output, extras={**output.extras, "edit_seconds": [seconds] * len(batch["key"])})


@dataclass
class _Found:
    """What one rank has collected.

    Attributes:
        num_shown: how many examples a grid has.
        finished: edits of an earlier process, by identity.
    """

    num_shown: int
    finished: dict[tuple[str, int | None, int], FinishedEdit]
    rows: list[tuple[int | None, SampleRow]] = field(default_factory=list)
    examples: list[PlacedExample] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    num_seen: int = 0

    def left(
        self, batch: Mapping[str, Any], seeds: Sequence[int], device: torch.device | str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Seeds with the samples of a batch that are to be edited under them; the same object where it is the same."""
        before: tuple[int, ...] = ()
        part: dict[str, Any] = {}
        for seed in seeds:
            identities = zip(batch["key"], places(batch), strict=True)
            rows = tuple(row for row, sample in enumerate(identities) if (*sample, seed) not in self.finished)
            if rows and rows != before:
                part = move_batch(batch if len(rows) == len(batch["key"]) else take(batch, rows), device)
                before = rows
            if rows:
                yield seed, part

    def see(self, batch: Mapping[str, Any], seeds: Sequence[int]) -> None:
        """Count a batch, of which samples may be finished, and take the examples from among these."""
        self.faults.update(fault["reason"] for fault in batch.get("faults", ()))
        self.num_seen += len(batch["key"]) * len(seeds)
        if self.finished:
            samples = zip(batch["key"], places(batch), strict=True)
            edits = [self.finished.get((*sample, seeds[0])) for sample in samples]
            pictures = [None if edit is None else edit.picture for edit in edits]
            shown = examples_of(batch, pictures) if any(pixels is not None for pixels in pictures) else ()
            self.examples += [found for found in zip(places(batch), shown, strict=False) if found[1] is not None]

    def show(self, batch: Mapping[str, Any], output: EditOutput, seen: Counter[str]) -> list[NDArray[np.uint8] | None]:
        """Keep the first examples of every edit type, of which `seen` has so many; returns their edited pictures."""
        pictures: list[NDArray[np.uint8] | None] = [None] * len(batch["key"])
        for row, example in enumerate(examples_of(batch, edited_pixels(output))):
            if example is not None and seen[example.edit_type] < self.num_shown:
                seen[example.edit_type] += 1
                self.examples.append((places(batch)[row], example))
                pictures[row] = example.edited
        return pictures

    def gathered(self, seeds: list[int], response_source: str) -> EvaluationResult:
        """The results of all ranks, and of the processes before them, as one."""
        before = [(edit.position, edit.row) for edit in self.finished.values()]
        rows, _ = deduplicate(tell_apart([*before, *gather(self.rows)]))
        if not rows:
            raise ValueError("evaluation: expected at least one sample, found none; check the split and --limit")
        faults = sum((Counter(part) for part in gather([dict(self.faults)])), Counter())
        examples = chosen(gather(self.examples), self.num_shown)
        num_duplicates = sum(gather([self.num_seen])) - len(rows)
        return EvaluationResult(rows, seeds, response_source, examples, num_duplicates, dict(faults))


def _add_features(
    rows: list[SampleRow], suite: MetricSuite, bank: FeatureBank, output: EditOutput, with_targets: bool
) -> None:
    """Give rows what metrics of sets compare, or the reason why they have no part in them."""
    features = {name: value.cpu() for name, value in suite.features(bank).items()}
    missing, has_target = bank.missing.tolist(), bank.has_image("target").tolist()
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


def _positions(batch: Mapping[str, Any]) -> list[int | None]:
    """Place of each sample in the split; None for one that repeats another, and where no stream says which do."""
    if "repeated" not in batch:
        return [None] * len(batch["key"])
    placed = zip(places(batch), batch["repeated"].tolist(), strict=True)
    return [None if repeated else place for place, repeated in placed]


def _rows(
    batch: Mapping[str, Any],
    output: EditOutput,
    seed: int,
    scored: Mapping[str, SampleValues],
    bank: FeatureBank,
) -> list[SampleRow]:
    rows, truncated = [], bank.truncated()
    unread = output.extras.get("cut") or [()] * len(batch["key"])
    for row, (key, resized_from) in enumerate(zip(batch["key"], bank.resized_from, strict=True)):
        cut = {name for name, is_cut in truncated.items() if bool(is_cut[row])}
        reasons = {name: values.reasons[row] for name, values in scored.items()}
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
                resized_from=None if resized_from is None else list(resized_from),
            )
        )
    return rows
