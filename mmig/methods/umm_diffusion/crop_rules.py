"""Which boxes of a picture become subjects of its caption: the rules of Ma et al. 2023, section 3.4, as functions.

No model is asked and no pixel is read here. Boxes are (left, top, right, bottom) in pixels of the picture.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import NamedTuple

from datamodules.schema import AttachmentSettings, Span
from mmig.base.values import check_values
from mmig.methods.umm_diffusion.vocabulary import Vocabulary

Box = tuple[float, float, float, float]
LOST = {
    "label": "its label is none of those that may be subjects",
    "score": "its score is not above the threshold",
    "outside": "it lies outside the picture, or has no area there",
    "overlap": "it is the same object as a box of its label with a higher score",
    "repeated": "its label has another box in the picture",
    "area": "it takes too little of the picture",
    "word_absent": "the caption does not say its label",
    "word_repeated": "the caption says its label more than once",
    "cut": "too much of it lies outside the square in the picture's middle, all that training may see",
    "surplus": "the sample has as many subjects of higher scores as it may have",
}
"""What becomes of boxes that are no subjects, in the order in which it is asked."""


@dataclass(frozen=True)
class CropRules:
    """Numbers of the rules.

    Attributes:
        threshold: score that a box must be above, in [0, 1]; None: 0.7, or 0.35 of an open vocabulary. The paper has no
            number.
        nms_iou: of two boxes of one label that overlap by more, the one with the higher score counts, as inside of the
            paper's detector (Fast R-CNN); 1 leaves all.
        min_side: pixels of a picture's shorter side.
        min_area: share of the picture that a box must take.
        min_inside: share of a box that must lie in the square in the picture's middle, which is what training at one
            square resolution sees. Not in the paper; 0 asks nothing (buckets of several shapes).
        max_subjects: most crops of a sample, those of the highest scores; the data's `max_attachments` must allow it.

    Raises:
        ValueError: a number out of range, by name.
    """

    threshold: float | None = None
    nms_iou: float = 0.5
    min_side: int = 512
    min_area: float = 0.10
    min_inside: float = 0.8
    max_subjects: int = AttachmentSettings.max_attachments

    def __post_init__(self) -> None:
        """Raise ValueError for a number that cannot be."""
        shares = dict.fromkeys(("threshold", "nms_iou", "min_area", "min_inside"), (0.0, 1.0))
        check_values(self, "rules", **shares, min_side=(1, float("inf")), max_subjects=(1, float("inf")))


class FoundBox(NamedTuple):
    """What a detector found: label in its own words, score in [0, 1], box."""

    label: str
    score: float
    box: Box


class Subject(NamedTuple):
    """A box that stands for a word of the caption.

    Attributes:
        label: of the vocabulary.
        score: the detector's.
        box: clipped to the picture.
        word: characters of the caption.
        area: share of the picture that the box takes.
        inside: share of the box in the square in the picture's middle.
    """

    label: str
    score: float
    box: Box
    word: Span
    area: float
    inside: float

    @property
    def crop(self) -> tuple[int, int, int, int]:
        """The whole pixels that the box touches."""
        left, top, right, bottom = self.box
        return floor(left), floor(top), ceil(right), ceil(bottom)


class Chosen(NamedTuple):
    """The subjects of a picture in the order of their words, and the boxes that are none, by reason (`LOST`).

    `last` is the rule that left no box, "score" where none was found at all; "" where there are subjects.
    """

    subjects: list[Subject]
    lost: Counter[str]
    last: str


def choose_subjects(
    found: Sequence[FoundBox],
    size: tuple[int, int],
    caption: str,
    rules: CropRules,
    vocabulary: Vocabulary,
    allowed: frozenset[str] | None = None,
) -> Chosen:
    """The boxes of a picture that are subjects of its caption; rules 2 to 5 in their order, then our own two.

    Labels are counted before small boxes are dropped: a second dog makes the word ambiguous however small it is.

    Args:
        found: by a detector.
        size: (width, height) of the picture.
        caption: y.
        rules: with a threshold.
        vocabulary: of labels and words.
        allowed: labels that may be subjects; None: all.
    """
    assert rules.threshold is not None
    boxes = [FoundBox(vocabulary.label(each.label), each.score, clipped(each.box, size)) for each in found]
    lost: Counter[str] = Counter()
    last = "score"

    def keep(reason: str, holds: Callable[[FoundBox], bool]) -> None:
        nonlocal boxes, last
        kept = [each for each in boxes if holds(each)]
        if len(kept) < len(boxes):
            lost[reason] += len(boxes) - len(kept)
            last = reason
        boxes = kept

    keep("label", lambda each: allowed is None or each.label in allowed)
    keep("score", lambda each: each.score > rules.threshold)
    keep("outside", lambda each: area(each.box) > 0)
    single = {id(each) for each in without_overlaps(boxes, rules.nms_iou)}
    keep("overlap", lambda each: id(each) in single)
    times = Counter(each.label for each in boxes)
    keep("repeated", lambda each: times[each.label] == 1)
    keep("area", lambda each: area(each.box) / (size[0] * size[1]) >= rules.min_area)
    words = vocabulary.words(caption, times)
    keep("word_absent", lambda each: bool(words[each.label]))
    keep("word_repeated", lambda each: len(words[each.label]) == 1)
    keep("cut", lambda each: inside_square(each.box, size) >= rules.min_inside)
    best = {each.label for each in sorted(boxes, key=lambda each: -each.score)[: rules.max_subjects]}
    keep("surplus", lambda each: each.label in best)
    subjects = [
        Subject(*each, words[each.label][0], area(each.box) / (size[0] * size[1]), inside_square(each.box, size))
        for each in boxes
    ]
    return Chosen(sorted(subjects, key=lambda each: each.word), lost, "" if subjects else last)


def clipped(box: Box, size: tuple[int, int]) -> Box:
    """What lies of a box in a picture of (width, height); of no area where that is nothing."""
    (left, top, right, bottom), (width, height) = box, size
    return min(max(left, 0), width), min(max(top, 0), height), min(max(right, 0), width), min(max(bottom, 0), height)


def area(box: Box) -> float:
    """Square pixels of a box."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def inside_square(box: Box, size: tuple[int, int]) -> float:
    """Share of a box of some area that lies in the largest square in the middle of a picture of (width, height)."""
    side = min(size)
    left, top = (size[0] - side) / 2, (size[1] - side) / 2
    common = max(box[0], left), max(box[1], top), min(box[2], left + side), min(box[3], top + side)
    return area(common) / area(box)


def without_overlaps(boxes: Sequence[FoundBox], iou: float) -> list[FoundBox]:
    """The boxes that non-maximum suppression leaves of each label."""
    if len(boxes) < 2:
        return list(boxes)
    import torch
    from torchvision.ops import batched_nms  # not at the top: a torchvision that does not fit torch breaks imports

    labels = sorted({each.label for each in boxes})
    numbers = torch.tensor([labels.index(each.label) for each in boxes])
    scores = torch.tensor([each.score for each in boxes], dtype=torch.float64)
    places = batched_nms(torch.tensor([each.box for each in boxes], dtype=torch.float64), scores, numbers, iou)
    return [boxes[place] for place in sorted(places.tolist())]
