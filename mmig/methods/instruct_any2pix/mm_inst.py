"""MM-Inst's captions and instructions as mappers of `mmig.cache.map` (Li et al. 2023, sections 3.4.2, 3.4.3 and 9.1).

`build` is their command line.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from datamodules.schema import Outcome, Sample, without_placeholders
from mmig.backbones.blip2 import load_blip2, load_blip2_processor
from mmig.backbones.fingerprint import identity
from mmig.backbones.loading import Precision
from mmig.backbones.named import BackboneSettings
from mmig.backbones.parts import BLIP2_PARTS, LLM_PARTS
from mmig.base.batches import process_device
from mmig.cache.map import Answer, AnswerError
from mmig.language.greedy import plain_generation
from mmig.methods.instruct_any2pix.asking import Asker, load_asker
from mmig.methods.instruct_any2pix.mm_inst_text import Refused, as_base, operations_of, parse, question
from mmig.methods.instruct_any2pix.slots import MARKED
from mmig.training.rng import derive_seed

_RULE = "1"  # counts up when the same answers come to give other samples


class Captions:
    """Captions pictures anew, by BLIP-2 with its defaults; the old caption stays in `metadata["caption"]`.

    Args:
        captioner: folder or hub id of a BLIP-2; None: captions are replayed alone.
        max_tokens: of a caption.
        batch_size: pictures shown at once.
        dtype: of the weights.
        device: auto, cpu, cuda or cuda:1.
    """

    backbone_settings: ClassVar[BackboneSettings] = {"captioner": BLIP2_PARTS}

    def __init__(
        self,
        captioner: str | None = None,
        max_tokens: int = 20,
        batch_size: int = 8,
        dtype: Precision = "float32",
        device: str = "auto",
    ) -> None:
        self.captioner, self.max_tokens, self.batch_size = captioner, max_tokens, batch_size
        self.dtype, self.device = dtype, device

    def facts(self) -> Mapping[str, str]:
        """What captions depend on."""
        known = "" if self.captioner is None else identity(self.captioner, BLIP2_PARTS.values(), "captioner")
        return {"captioner": known, "max_tokens": str(self.max_tokens), "dtype": self.dtype, "rule": _RULE}

    @torch.no_grad()
    def answer(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        """A caption each; None without a picture.

        Raises:
            AnswerError: there is no captioner.
        """
        shown = [sample for sample in samples if "target" in sample]
        if shown and self.captioner is None:
            raise AnswerError(
                f"{shown[0]['key']!r}: the replayed files have no caption for it, and no captioner is named"
            )
        found: dict[str, str] = {}
        for start in range(0, len(shown), self.batch_size):
            part = shown[start : start + self.batch_size]
            model, processor = self._models
            inputs = processor([one["target"].convert("RGB") for one in part], return_tensors="pt")
            with plain_generation(model.language_model):
                ids = model.generate(**inputs.to(model.device, model.dtype), max_new_tokens=self.max_tokens)
            texts = processor.batch_decode(ids, skip_special_tokens=True)
            found |= {one["key"]: text.strip() for one, text in zip(part, texts, strict=True)}
        return [found.get(sample["key"]) for sample in samples]

    def apply(self, sample: Sample, answer: Answer) -> Outcome:
        """The sample under its new caption.

        Raises:
            AnswerError: an answer of another kind.
        """
        if answer is None:
            return Outcome(reason="no_picture", detail="no picture to caption")
        if not isinstance(answer, str):
            raise AnswerError(f"the answer for {sample['key']!r}: expected a caption, found {answer!r}")
        if not answer.strip():
            return Outcome(reason="no_words", detail="the captioner wrote nothing")
        old = {"caption": sample["target_caption"]} if "target_caption" in sample else {}
        metadata = {**sample.get("metadata", {}), **old}
        return Outcome([sample | {"target_caption": answer.strip(), "metadata": metadata}])

    @functools.cached_property
    def _models(self) -> tuple[Any, Any]:
        assert self.captioner is not None
        model = load_blip2(self.captioner, dtype=self.dtype).to(process_device(self.device)).eval()
        return model, load_blip2_processor(self.captioner)


class Instructions:
    """Writes an instruction and the caption of its result for each captioned picture, which becomes the one to edit.

    Of a sample (`target`, `target_caption`) comes one with `source`, `source_caption`, `instruction` and
    `target_caption`, and `metadata["marked"]`, the instruction with its pictures and sounds in brackets; see `slots`.
    Answers that the rules refuse are counted, as `nothing: REASON` (`mm_inst_text.REASONS`).

    Args:
        model: folder or hub id of a causal language model with a chat template; None: answers are replayed alone.
        seed: of the operations that are asked for.
        max_tokens: of an answer.
        batch_size: questions asked at once.
        dtype: of the weights.
        device: auto, cpu, cuda or cuda:1.
    """

    backbone_settings: ClassVar[BackboneSettings] = {"model": LLM_PARTS}

    def __init__(
        self,
        model: str | None = None,
        seed: int = 0,
        max_tokens: int = 200,
        batch_size: int = 8,
        dtype: Precision = "float32",
        device: str = "auto",
    ) -> None:
        self.model, self.seed, self.max_tokens, self.batch_size = model, seed, max_tokens, batch_size
        self.dtype, self.device = dtype, device

    def facts(self) -> Mapping[str, str]:
        """What instructions depend on."""
        known = "" if self.model is None else identity(self.model, LLM_PARTS.values(), "model")
        more = {"seed": str(self.seed), "max_tokens": str(self.max_tokens), "dtype": self.dtype, "rule": _RULE}
        return {"model": known, "question": question("CAPTION", ["OPERATIONS"]), **more}

    def answer(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        """What the model writes, as it wrote it; None where it is not asked or has no room.

        Raises:
            AnswerError: there is no model.
        """
        asked = [sample for sample in samples if _base(sample)]
        if asked and self.model is None:
            raise AnswerError(f"{asked[0]['key']!r}: the replayed files have no answer for it, and no model is named")
        found: dict[str, str | None] = {}
        for start in range(0, len(asked), self.batch_size):
            part = asked[start : start + self.batch_size]
            questions = [question(_base(sample), self.operations(sample["key"])) for sample in part]
            found |= dict(zip([sample["key"] for sample in part], self._asker(questions), strict=True))
        return [found.get(sample["key"]) for sample in samples]

    def operations(self, key: str) -> tuple[str, ...]:
        """What is asked for a sample."""
        return operations_of(derive_seed(self.seed, "mm-inst", key))

    def apply(self, sample: Sample, answer: Answer) -> Outcome:
        """The sample with its instruction, or by which rule there is none.

        Raises:
            AnswerError: an answer of another kind.
        """
        base = _base(sample)
        if not base:
            return Outcome(reason="no_caption", detail="no picture with a caption to ask about")
        if answer is None:
            return Outcome(reason="no_room", detail="the question is longer than what the model reads")
        if not isinstance(answer, str):
            raise AnswerError(f"the answer for {sample['key']!r}: expected a text, found {answer!r}")
        found = parse(answer, base)
        if isinstance(found, Refused):
            return Outcome(reason=found.reason, detail=found.detail)
        operations = self.operations(sample["key"])
        marked = {"instruction": found.marked, "base": base, "operations": list(operations)}
        made: Any = {
            "key": sample["key"],
            "source": sample["target"],
            "source_caption": base,
            "instruction": found.plain,
            "target_caption": found.result,
            "edit_type": operations[0],
            "metadata": {**sample.get("metadata", {}), MARKED: marked},
        }
        counts = {f"asked: {'+'.join(operations)}": 1, "brackets": found.marked.count("[")}
        return Outcome([made], counts=counts)

    @functools.cached_property
    def _asker(self) -> Asker:
        assert self.model is not None
        return load_asker(self.model, self.max_tokens, self.dtype, process_device(self.device))


def _base(sample: Sample) -> str:
    """The caption to ask about; "" where there is no picture or no caption."""
    if "target" not in sample:
        return ""
    return as_base(without_placeholders(sample.get("target_caption", "")))
