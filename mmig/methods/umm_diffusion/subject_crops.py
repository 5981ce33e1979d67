"""The data step of UMM-Diffusion: pictures with captions become samples whose subjects are crops, bound to words.

A mapper of `mmig.cache.map`, which `python -m mmig.methods.umm_diffusion.subjects` and `python -m mmig.run.map` drive.
What the detector found is what is recorded and replayed; the rules (Ma et al. 2023, section 3.4) follow from it.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar

import yaml
from PIL import Image

from datamodules.schema import Attachment, Outcome, Sample, without_placeholders
from mmig.backbones.fingerprint import identity
from mmig.backbones.loading import Precision
from mmig.backbones.named import BackboneSettings
from mmig.base.batches import process_device
from mmig.base.paths import resolved
from mmig.cache.map import Answer, AnswerError
from mmig.methods.umm_diffusion.crop_rules import CropRules, FoundBox, Subject, choose_subjects
from mmig.methods.umm_diffusion.detector import DETECTOR, DETECTOR_PROCESSOR, Detector, check_labels, load_detector
from mmig.methods.umm_diffusion.editor import FIELD
from mmig.methods.umm_diffusion.vocabulary import SYNONYMS, Vocabulary, VocabularyError, coco_names

CLOSED_THRESHOLD, OPEN_THRESHOLD = 0.7, 0.35
LEAST_RECORDED = 0.1
"""Boxes of scores from here on are recorded (or from the threshold on), so that a replay may lower the threshold."""
_RULE = "1"  # counts up when the same boxes come to give other samples


class SubjectCrops:
    """Makes (x, y, x_s, p) of (x, y): both stay, and crops of x become attachments of role "subject" bound to words.

    A crop is the rectangle of its box: what lies beside the subject in it, background or other things, stays, as in the
    paper; nothing is masked. `metadata["subjects"]` says of each its attachment, label, score, box in pixels of x
    (left, top, right, bottom), area as a share of x, and the share of the box in the square in the middle of x.

    A sample of which nothing is left is counted under the rule that dropped its last box, boxes under theirs
    (`crop_rules.LOST`).

    Args:
        detector: of transformers; folder or hub id. Loaded at the first question. None: boxes are replayed alone.
        open_vocabulary: the detector is asked for labels in words.
        labels: that may be subjects, and what an open vocabulary is asked for. None: all that the detector has; of an
            open vocabulary COCO's 80 names.
        synonyms: "coco" for `vocabulary.SYNONYMS`, or a YAML file with a list of such groups. None: a label is said by
            its own words alone, as the paper has it.
        rules: numbers of the rules.
        batch_size: pictures shown to the detector at once. 1: each is judged the same whatever stands beside it. More
            are faster; padding and rounding may then move a box.
        dtype: precision of the detector.
        device: auto, cpu, cuda or cuda:1; under torchrun auto and cuda are the GPU of this process.

    Raises:
        ValueError: a number out of range, or synonyms that cannot be read.
    """

    backbone_settings: ClassVar[BackboneSettings] = {
        "detector": {part.name: part for part in (DETECTOR, DETECTOR_PROCESSOR)}
    }

    def __init__(
        self,
        detector: str | None = None,
        open_vocabulary: bool = False,
        labels: list[str] | None = None,
        synonyms: str | None = None,
        rules: CropRules | None = None,
        batch_size: int = 1,
        dtype: Precision = "float32",
        device: str = "auto",
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size: expected a whole number of at least 1, found {batch_size}")
        if labels is not None and not (labels and all(label.strip() for label in labels)):
            raise VocabularyError(f"labels: expected words, found {labels}; leave it out for all labels")
        rules = rules or CropRules()
        threshold = OPEN_THRESHOLD if open_vocabulary else CLOSED_THRESHOLD
        self.rules = rules if rules.threshold is not None else replace(rules, threshold=threshold)
        self.detector, self.open_vocabulary = detector, open_vocabulary
        self.labels = list(coco_names()) if labels is None and open_vocabulary else labels
        self.vocabulary = Vocabulary(_read_synonyms(synonyms))
        self.batch_size, self.dtype, self.device = batch_size, dtype, device

    def facts(self) -> Mapping[str, str]:
        """What the samples depend on; how many pictures the detector is shown at once does not count.

        Raises:
            BackboneError: a folder of a detector that is not there.
        """
        parts = self.backbone_settings["detector"].values()
        found = {"detector": "" if self.detector is None else identity(self.detector, parts, "detector")}
        found |= {"dtype": self.dtype, "labels": "; ".join(self.labels or ()), "rule": _RULE}
        found |= {name: str(value) for name, value in asdict(self.rules).items()}
        return found | dict(self.vocabulary.facts())

    def answer(self, samples: Sequence[Sample]) -> Sequence[Answer]:
        """What the detector found, `{"boxes": [[left, top, right, bottom], ...], "labels": [...], "scores": [...]}`.

        None for a sample that rule 1 drops.

        Raises:
            AnswerError: there is no detector.
        """
        shown = [sample for sample in samples if not self._unusable(sample)]
        answers: dict[str, Answer] = {}
        for start in range(0, len(shown), self.batch_size):
            part = shown[start : start + self.batch_size]
            if self.detector is None:
                raise AnswerError(
                    f"{part[0]['key']!r}: the replayed files have no boxes for it, and no detector is named; name one, "
                    "or give its boxes"
                )
            found = self._detector([sample["target"].convert("RGB") for sample in part])
            answers |= {sample["key"]: _as_answer(boxes) for sample, boxes in zip(part, found, strict=True)}
        return [answers.get(sample["key"]) for sample in samples]

    def apply(self, sample: Sample, answer: Answer) -> Outcome:
        """The sample with its crops, or by which rule there are none.

        Raises:
            AnswerError: an answer of another kind.
        """
        if unusable := self._unusable(sample):
            return Outcome(reason=unusable[0], detail=unusable[1])
        picture = sample["target"]
        found = read_boxes(sample["key"], answer, picture.size)
        allowed = None if self.labels is None else frozenset(map(self.vocabulary.label, self.labels))
        caption = sample[FIELD]  # type: ignore[literal-required]
        chosen = choose_subjects(found, picture.size, caption, self.rules, self.vocabulary, allowed)
        counts = {"boxes": len(found), "subjects": len(chosen.subjects)}
        counts |= {f"lost: {reason}": count for reason, count in chosen.lost.items()}
        if not chosen.subjects:
            labels = ", ".join(sorted({each.label for each in found})) or "nothing"
            return Outcome((), chosen.last, f"{labels} found; {caption[:80]!r}", counts)
        return Outcome([_with_crops(sample, chosen.subjects)], counts=counts)

    def _unusable(self, sample: Sample) -> tuple[str, str] | None:
        """Why a sample is not looked at, as reason and in words (rule 1)."""
        if "target" not in sample:
            return "no_picture", "no picture to cut subjects from"
        if not without_placeholders(sample.get(FIELD, "")).strip():
            return "no_caption", "no caption, of which a subject could be a word"
        width, height = sample["target"].size
        if min(width, height) < self.rules.min_side:
            return "resolution", f"{width}x{height} pixels, expected {self.rules.min_side} on the shorter side"
        return None

    @functools.cached_property
    def _detector(self) -> Detector:
        assert self.detector is not None
        queries = self.labels if self.open_vocabulary else None
        least = min(LEAST_RECORDED, self.rules.threshold or 0.0)
        found = load_detector(self.detector, queries, least, self.dtype, process_device(self.device))
        if self.labels is not None and not self.open_vocabulary:
            check_labels(found, self.labels, self.vocabulary)
        return found


def read_boxes(key: str, answer: Answer, size: tuple[int, int]) -> list[FoundBox]:
    """The boxes of an answer.

    Args:
        key: of the sample, for messages.
        answer: see `SubjectCrops.answer`.
        size: (width, height) of its picture.

    Raises:
        AnswerError: it is no such one, a box that is turned inside out, or boxes in shares of the picture.
    """
    wanted = f"the answer for {key!r}: expected"
    if answer is None:
        raise AnswerError(f"{wanted} boxes, found null: the picture was not looked at; leave its line out to ask again")
    try:
        rows = list(zip(answer["boxes"], answer["labels"], answer["scores"], strict=True))
        found = [FoundBox(label, float(score), tuple(map(float, box))) for box, label, score in rows]
    except (TypeError, KeyError, ValueError) as error:
        raise AnswerError(
            f"{wanted} boxes, labels and scores, as many of each, found {str(answer)[:80]} ({error!r})"
        ) from error
    for each in found:
        if not isinstance(each.label, str) or not each.label.strip() or not 0 <= each.score <= 1:
            raise AnswerError(f"{wanted} labels in words and scores in [0, 1], found {each.label!r}, {each.score}")
        box = each.box
        if len(box) != 4 or not all(map(isfinite, box)) or box[0] > box[2] or box[1] > box[3]:
            raise AnswerError(f"{wanted} boxes [left, top, right, bottom], found {list(box)} of {each.label!r}")
    if min(size) > 1 and found and all(0 <= place <= 1 for each in found for place in each.box):
        raise AnswerError(
            f"{wanted} boxes in pixels of a picture of {size[0]}x{size[1]}, found only numbers from 0 to 1"
        )
    return found


def _as_answer(found: Sequence[FoundBox]) -> Answer:
    return {
        "boxes": [list(each.box) for each in found],
        "labels": [each.label for each in found],
        "scores": [each.score for each in found],
    }


def _with_crops(sample: Sample, subjects: Sequence[Subject]) -> Sample:
    """The sample with the crops behind the attachments that it has."""
    own, picture = sample.get("attachments", []), sample["target"]
    assert isinstance(picture, Image.Image)
    crops: list[Attachment] = [
        {"kind": "image", "role": "subject", "data": picture.crop(each.crop), "word": list(each.word)}
        for each in subjects
    ]
    said = [
        {
            "attachment": number,
            "label": each.label,
            "score": each.score,
            "box": list(each.box),
            "area": round(each.area, 4),
            "inside": round(each.inside, 4),
        }
        for number, each in enumerate(subjects, len(own))
    ]
    metadata: dict[str, Any] = {**sample.get("metadata", {}), "subjects": said}
    return sample | {"attachments": [*own, *crops], "metadata": metadata}


def _read_synonyms(name: str | None) -> Sequence[Sequence[str]]:
    """Groups of words that mean the same, see `SubjectCrops`."""
    if name is None:
        return ()
    if name == "coco":
        return SYNONYMS
    path: Path = resolved(name)
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise VocabularyError(f"synonyms {name}: expected coco or a readable YAML file: {reason}") from error
    if not isinstance(found, list) or not all(isinstance(group, list) for group in found):
        raise VocabularyError(f"synonyms {path}: expected a list of lists of words, such as [[couch, sofa]]")
    return [[str(word) for word in group] for group in found]
