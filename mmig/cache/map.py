"""Mappers: what makes new samples of samples, and how those that ask a model get their answers.

`python -m mmig.run.map` maps shards to shards with one. A mapper that asks a model (a language model that writes
texts, a detector that draws boxes) is two functions: `answer` asks, `apply` makes samples of an answer. An answer is
plain JSON. So it may have been given elsewhere, on a GPU or behind an API, and come from a file; whatever follows from
it is reproducible anywhere.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

from datamodules.schema import Outcome, Sample

Answer = Any
"""Plain JSON: None, bool, numbers, str, lists, and dicts with str keys."""


class AnswerError(ValueError):
    """A file of answers that cannot be used, or answers that are missing; one line says which."""


@runtime_checkable
class Mapper(Protocol):
    """Makes samples of samples, each by itself: the same one of the same one, whatever stands beside it."""

    def facts(self) -> Mapping[str, str]:
        """What the result depends on beside the samples: fingerprints of models, prompts, settings."""
        ...

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Sequence[Sample] | str | Outcome]:
        """None, one or several samples of each, under keys of their own; images that stay keep their bytes.

        A text in place of the samples says why there are none; an `Outcome` says it by a word that is counted.

        Args:
            samples: with PIL images, as `datamodules.schema.Sample` says.
        """
        ...


@runtime_checkable
class AskingMapper(Protocol):
    """A mapper that asks a model; the model is best loaded at the first question, for there may be none."""

    def facts(self) -> Mapping[str, str]:
        """As of `Mapper`; of the model that answers, wherever it does."""
        ...

    def answer(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        """One answer a sample."""
        ...

    def apply(self, sample: Sample, answer: Answer) -> Sequence[Sample] | str | Outcome:
        """The samples that follow from an answer, or why there are none; a pure function of both."""
        ...


class Answered:
    """An asking mapper as a `Mapper`: answers come from files where they are there, else from its model.

    Args:
        asking: the mapper.
        replay: files of answers, one JSON object `{"key": ..., "answer": ...}` a line.
        record: file to which new answers are added, a line each, as soon as they are given; those that it holds
            already, from before a kill, are taken too. None: they are not kept.

    Attributes:
        asked: how many answers the model has given.

    Raises:
        AnswerError: a file that is no such one, or two answers for one key.
    """

    def __init__(self, asking: AskingMapper, replay: Sequence[Path] = (), record: Path | None = None) -> None:
        self._asking = asking
        self._answers: dict[str, Answer] = {}
        self.asked = 0
        for path in replay:
            self._read(path, path.read_bytes())
        self._record = None
        if record is not None:
            record.parent.mkdir(parents=True, exist_ok=True)
            self._record = record.open("a+b", buffering=0)
            self._read(record, self._whole_lines())

    def facts(self) -> Mapping[str, str]:
        """Those of the asking mapper."""
        return self._asking.facts()

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Sequence[Sample] | str | Outcome]:
        """As of `Mapper`."""
        unknown = [sample for sample in samples if sample["key"] not in self._answers]
        if unknown:
            self._ask(unknown)
        return [self._asking.apply(sample, self._answers[sample["key"]]) for sample in samples]

    def __enter__(self) -> "Answered":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._record is not None:
            self._record.close()

    def _ask(self, samples: Sequence[Sample]) -> None:
        answers = list(self._asking.answer(samples))
        if len(answers) != len(samples):
            raise AnswerError(
                f"{type(self._asking).__name__}.answer: expected one answer for each of {len(samples)} samples, found "
                f"{len(answers)}"
            )
        for sample, answer in zip(samples, answers, strict=True):
            line = _line(sample["key"], answer)
            self._answers[sample["key"]] = json.loads(line)["answer"]  # as it would come from the file
            if self._record is not None:
                self._record.write(line)
        self.asked += len(answers)

    def _read(self, path: Path, content: bytes) -> None:
        for number, line in enumerate(content.splitlines(), 1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                key, answer = entry["key"], entry["answer"]
                if not isinstance(key, str):
                    raise TypeError(f"key {key!r}")
            except (ValueError, KeyError, TypeError) as error:
                raise AnswerError(
                    f'{path}, line {number}: expected {{"key": ..., "answer": ...}}, found {line[:80]!r} ({error!r})'
                ) from error
            if key in self._answers and self._answers[key] != answer:
                raise AnswerError(
                    f"{path}, line {number}: another answer for {key!r} than before; expected one a key: leave one out"
                )
            self._answers[key] = answer

    def _whole_lines(self) -> bytes:
        """What the file of new answers holds, without a last line that a kill has cut off."""
        assert self._record is not None
        self._record.seek(0)
        content = self._record.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._record.truncate(len(whole))
        return whole


def _line(key: str, answer: Answer) -> bytes:
    try:
        text = json.dumps({"key": key, "answer": answer}, ensure_ascii=False, sort_keys=True, allow_nan=False)
        return text.encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise AnswerError(f"the answer for {key!r}: expected plain JSON, found {answer!r} ({error})") from error
