"""Mappers as methods have them, with models of one line."""

import os
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datamodules.schema import Sample


class Splitter:
    """Of every third sample none, of every other third two, with the target as an attachment of the second."""

    def facts(self) -> Mapping[str, str]:
        return {"splitter": "1"}

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Sequence[Sample]]:
        return [self._of(sample) for sample in samples]

    def _of(self, sample: Sample) -> list[Sample]:
        number = sample["metadata"]["number"] % 3
        crop = {"kind": "image", "role": "subject", "data": sample["target"].crop((0, 0, 8, 8))}
        others: Any = {"key": f"{sample['key']}-1", "attachments": [crop]}
        return [[], [sample], [sample | {"key": f"{sample['key']}-0"}, sample | others]][number]


class Painter(Splitter):
    """Draws into the source that it is given."""

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Sequence[Sample]]:
        for sample in samples:
            sample["source"].putpixel((0, 0), (1, 2, 3))
        return [[sample] for sample in samples]


class Silent(Splitter):
    """Forgets the last sample of a batch."""

    def __call__(self, samples: Sequence[Sample]) -> Sequence[Sequence[Sample]]:
        return [[sample] for sample in samples][:-1]


class Picky(Splitter):
    """Says why, where it makes no sample."""

    def _of(self, sample: Sample) -> Any:
        return super()._of(sample) or f"number {sample['metadata']['number']} is not to my taste"


class Describer:
    """Asks a model for the mean brightness of the target, and says so in the response.

    Args:
        model: name of the model, its one fact.
        fatal_at: kills this process, as no signal handler can help, when it is asked about the sample of this key.
        is_there: False where there is no model, only answers.
    """

    def __init__(self, model: str = "one", fatal_at: str = "", is_there: bool = True) -> None:
        self.model, self.fatal_at, self.is_there = model, fatal_at, is_there

    def facts(self) -> Mapping[str, str]:
        return {"model": self.model}

    def answer(self, samples: Sequence[Sample]) -> Sequence[Any]:
        if not self.is_there:
            raise ValueError(f"no model here to ask about {samples[0]['key']}")
        if any(sample["key"] == self.fatal_at for sample in samples):
            os.kill(os.getpid(), signal.SIGKILL)
        return [{"brightness": float(np.asarray(sample["target"]).mean()), "size": (16, 16)} for sample in samples]

    def apply(self, sample: Sample, answer: Any) -> Sequence[Sample]:
        assert answer["size"] == [16, 16]  # as JSON has it, however it came here
        return [sample | {"response": f"brightness {answer['brightness']:.3f}"}]
