"""MGIE's data step: an expressive target for every edit, written by a multimodal LLM that sees the picture.

A mapper of `python -m mmig.run.map`. The model's answers are what is recorded and replayed, as it wrote them; cleaning
and summarising follow from them, so that both can be done anew without asking.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

from datamodules.schema import Sample, without_placeholders
from mmig.backbones.fingerprint import fingerprints, identity
from mmig.backbones.loading import Precision
from mmig.backbones.named import BackboneSettings
from mmig.base.batches import process_device
from mmig.cache.map import Answer, AnswerError
from mmig.language.chat import CHAT_MODEL, CHAT_PROCESSOR
from mmig.methods.mgie.asking import Asker, load_asker
from mmig.methods.mgie.expressive_text import HEADER, QUESTION, clean, question_about
from mmig.methods.mgie.summariser import (
    MAX_TOKENS,
    PROMPT,
    SUMMARISER,
    SUMMARISER_TOKENIZER,
    Summariser,
    load_summariser,
    summariser_folder,
)

LLAVA = "llava-hf/llava-1.5-7b-hf"
_RULE = "1"  # counts up when the same answer comes to give another text


class ExpressiveTargets:
    """Writes `expressive` into edit samples (MGIE, Fu et al. 2024): asks, cleans, summarises.

    A sample without source picture or instruction, one whose question fills the model's context, and one of whose
    answer nothing is left are dropped and counted as "nothing", each with its reason.

    Args:
        model: multimodal LLM of transformers with a chat template; folder or hub id. Loaded at the first question.
        summariser: sequence-to-sequence model of transformers; folder or hub id; None: the cleaned text is the target.
        question: with `{instruction}` in it; see `expressive_text.QUESTION`.
        header: of the assistant's turn, where answers given elsewhere hold the conversation before them; "" for none.
        max_tokens: of an answer; fewer where the model's context ends before.
        batch_size: questions asked at once. 1: each answer is the same whatever stands beside it. More are faster;
            rounding may then change a word where two are almost as likely.
        dtype: precision of the multimodal LLM.
        summary_prompt: directly before the text that is summarised.
        summary_tokens: of a summary, at most; it has 5 at least.
        summariser_dtype: precision of the summariser; T5 overflows in float16.
        device: auto, cpu, cuda or cuda:1; under torchrun auto and cuda are the GPU of this process.

    Raises:
        ValueError: a question without place for the instruction, or a number that is too small.
    """

    backbone_settings: ClassVar[BackboneSettings] = {
        "model": {part.name: part for part in (CHAT_MODEL, CHAT_PROCESSOR)},
        "summariser": {part.name: part for part in (SUMMARISER, SUMMARISER_TOKENIZER)},
    }

    def __init__(
        self,
        model: str = LLAVA,
        summariser: str | None = None,
        question: str = QUESTION,
        header: str = HEADER,
        max_tokens: int = 1024,
        batch_size: int = 1,
        dtype: Precision = "float32",
        summary_prompt: str = PROMPT,
        summary_tokens: int = MAX_TOKENS,
        summariser_dtype: Precision = "float32",
        device: str = "auto",
    ) -> None:
        least = {"max_tokens": (max_tokens, 1), "batch_size": (batch_size, 1), "summary_tokens": (summary_tokens, 6)}
        for name, (value, allowed) in least.items():
            if value < allowed:
                raise ValueError(f"{name}: expected a whole number of at least {allowed}, found {value}")
        question_about("", question)
        self.model, self.summariser = model, summariser
        self.question, self.header, self.summary_prompt = question, header, summary_prompt
        self.max_tokens, self.batch_size, self.summary_tokens = max_tokens, batch_size, summary_tokens
        self.dtype, self.summariser_dtype, self.device = dtype, summariser_dtype, device

    def facts(self) -> Mapping[str, str]:
        """What the targets depend on.

        The model of a hub id is known by it, so that its answers can be replayed where it is not; that of a folder, and
        the summariser, which is always needed, by their fingerprints. How many are asked at once does not count: it may
        have to change when memory runs out.

        Raises:
            BackboneError: a folder that is not there, or a summariser that is none.
        """
        asked = {"question": self.question, "max_tokens": str(self.max_tokens), "dtype": self.dtype}
        known_by = identity(self.model, self.backbone_settings["model"].values(), "model")
        found = {"model": known_by, **asked, "header": self.header, "rule": _RULE}
        if self.summariser is not None:
            summariser_folder(self.summariser)
            found["summariser"] = fingerprints(
                self.summariser, self.backbone_settings["summariser"].values(), "summariser"
            )
            found |= {"summary_prompt": self.summary_prompt, "summary_tokens": str(self.summary_tokens)}
            found["summariser_dtype"] = self.summariser_dtype
        return found

    def answer(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        """What the model answers, as it wrote it; None where it is not asked or has no room for an answer."""
        complete = [sample for sample in samples if not _lacks(sample)]
        answers: dict[str, Answer] = {}
        for start in range(0, len(complete), self.batch_size):
            part = complete[start : start + self.batch_size]
            pictures = [sample["source"].convert("RGB") for sample in part]
            questions = [question_about(sample["instruction"], self.question) for sample in part]
            given = self._asker(pictures, questions)
            answers |= {sample["key"]: text for sample, text in zip(part, given, strict=True)}
        return [answers.get(sample["key"]) for sample in samples]

    def apply(self, sample: Sample, answer: Answer) -> Sequence[Sample] | str:
        """The sample with its target, or why there is none.

        Raises:
            AnswerError: an answer of another kind, from a file that another mapper recorded.
        """
        if lacking := _lacks(sample):
            return f"no {lacking} to ask about"
        if answer is None:
            return "the question is longer than what the model reads"
        if not isinstance(answer, str):
            raise AnswerError(f"the answer for {sample['key']!r}: expected a text or null, found {answer!r}")
        text = clean(answer, self.header)
        if text and self.summariser is not None:
            text = self._summary(text)
        return [sample | {"expressive": text}] if text else f"nothing is left of the answer {answer[:80]!r}"

    @functools.cached_property
    def _asker(self) -> Asker:
        return load_asker(self.model, self.max_tokens, self.dtype, process_device(self.device))

    @functools.cached_property
    def _summary(self) -> Summariser:
        assert self.summariser is not None
        device, prompt = process_device(self.device), self.summary_prompt
        return load_summariser(self.summariser, prompt, self.summary_tokens, self.summariser_dtype, device)


def _lacks(sample: Sample) -> str | None:
    """What a question needs and the sample has not."""
    if "source" not in sample:
        return "source picture"
    return None if without_placeholders(sample.get("instruction", "")).strip() else "instruction"
