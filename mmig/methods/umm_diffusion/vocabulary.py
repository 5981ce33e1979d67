"""Labels of objects as words of a caption: names, words that mean the same, and where a caption says them."""

import functools
import re
from collections.abc import Iterable, Mapping, Sequence

from datamodules.schema import Span

SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("airplane", "aeroplane", "plane"),
    ("cell phone", "cellphone", "mobile phone", "smartphone", "phone"),
    ("couch", "sofa"),
    ("dining table", "diningtable"),
    ("donut", "doughnut"),
    ("hair drier", "hair dryer"),
    ("motorcycle", "motorbike"),
    ("potted plant", "pottedplant"),
    ("refrigerator", "fridge"),
    ("tv", "television", "tv monitor", "tvmonitor"),
)
"""Other words for COCO's names, the spellings of other detectors among them; the paper says nothing of any."""


class VocabularyError(ValueError):
    """Labels or synonyms that cannot be used; one line says which."""


@functools.cache
def coco_names() -> tuple[str, ...]:
    """The 80 object names of COCO, as torchvision has them."""
    from torchvision.models.detection import FasterRCNN_ResNet50_FPN_V2_Weights

    names = FasterRCNN_ResNet50_FPN_V2_Weights.DEFAULT.meta["categories"]
    return tuple(name for name in names if name not in ("__background__", "N/A"))


class Vocabulary:
    """Which words are one label, and where a caption says it.

    Args:
        synonyms: groups of words that mean the same; the first of each is the label. None: no word but its own.

    Raises:
        VocabularyError: a group of fewer than two words, or a word in two groups.
    """

    def __init__(self, synonyms: Iterable[Sequence[str]] = ()) -> None:
        self._label_of: dict[str, str] = {}
        for group in synonyms:
            words = [plain(word) for word in group]
            if len(words) < 2 or not all(words):
                raise VocabularyError(f"synonyms: expected groups of two or more words, found {list(group)}")
            for word in words:
                if self._label_of.setdefault(word, words[0]) != words[0]:
                    raise VocabularyError(f"synonyms: {word!r} is in two groups; expected each word once")

    def label(self, name: str) -> str:
        """The label that a name means, in small letters with single blanks."""
        return self._label_of.get(plain(name), plain(name))

    def words(self, caption: str, labels: Iterable[str]) -> dict[str, list[Span]]:
        """Characters of the words of a caption that say one of these labels; in any case, whole words alone.

        Of names that hold each other the longest counts: "a hot dog" says no dog, wherever COCO's names and these
        labels are the only ones. A hyphen joins: "dog-friendly" says no dog either; "the dog's" does.

        Args:
            caption: any text.
            labels: as `label` gives them.
        """
        labels = set(labels)
        found: dict[str, list[Span]] = {label: [] for label in labels}
        for match in _pattern(frozenset({*coco_names(), *self._label_of, *labels})).finditer(caption):
            if (label := self.label(match[0])) in labels:
                found[label].append(match.span())
        return found

    def facts(self) -> Mapping[str, str]:
        """What the words of labels depend on."""
        return {"synonyms": "; ".join(f"{word}={label}" for word, label in sorted(self._label_of.items()))}


def plain(name: str) -> str:
    """A name in small letters, its words apart by single blanks ("Dining_Table" is "dining table")."""
    return " ".join(name.replace("_", " ").lower().split())


@functools.lru_cache(maxsize=4096)
def _pattern(names: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(names, key=lambda name: (-len(name), name))
    forms = "|".join(r"\s+".join(map(re.escape, name.split())) for name in longest_first)
    return re.compile(rf"(?<![\w-])(?:{forms})(?![\w-])", re.IGNORECASE)
