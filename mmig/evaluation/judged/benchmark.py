"""What a judged benchmark is: a declaration that the command, the aggregation and the page read."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmig.evaluation.judged.items import Item, Question
from mmig.evaluation.judged.means import Measure, Scores
from mmig.evaluation.judged.prompts import Prompts
from mmig.evaluation.judged.replies import Reading
from mmig.evaluation.settings import read_yaml

FACTS = Path(__file__).parent / "facts"


@dataclass(frozen=True)
class Given:
    """The replies about all items, as a judge gave them.

    Attributes:
        replies: (item, question) -> the replies by pass, None where there is none.
        missing: key -> why, of items that no judge could be shown: no edited or no source picture.
        reasons: (item, question) -> why there is no reply, where it is known.
        seed: of what an official script draws.
    """

    replies: Mapping[tuple[str, str], Sequence[str | None]]
    missing: Mapping[str, str]
    reasons: Mapping[tuple[str, str], str] = field(default_factory=dict)
    seed: int = 0

    def of(self, item: Item, name: str) -> Sequence[str | None]:
        """Replies of an item's question by pass."""
        return self.replies.get((item.key, name), (None,))

    def first(self, item: Item, name: str) -> str | None:
        """The reply of the first pass, which is all that most official scripts ask for."""
        return self.of(item, name)[0]


@dataclass
class Official:
    """What an official script makes of the replies.

    Attributes:
        values: measure -> key -> value, None for an item that leaves the mean.
        acted: defect -> how often it changed something here.
        digits: decimals to which it rounds means of types; None for all.
        weights: measure -> key -> how many scores its value is the mean of, for measures that count scores, not items.
    """

    values: dict[str, dict[str, float | None]]
    acted: Counter[str] = field(default_factory=Counter)
    digits: int | None = None
    weights: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Benchmark:
    """A judged benchmark.

    Attributes:
        name: on the command line.
        languages: of its instructions, the usual one first.
        items: (folder of its items, folder of edited pictures, language, folder for pictures that must be unpacked) ->
            its items.
        questions: what is asked about an item, in the words of the prompts.
        read: strict reading of a reply to a question of an item.
        extremes: lowest and highest scores of a question of an item.
        measures: what it reports, the main one first.
        official: the official script's aggregation, defects and all.
        headline: "macro" or "micro", which of the means its tables print.
    """

    name: str
    languages: tuple[str, ...]
    items: Callable[[Path, Path, str, Path], list[Item]]
    questions: Callable[[Item, Prompts], list[Question]]
    read: Callable[[Item, str, str], Reading]
    extremes: Callable[[Item, str], tuple[Scores, Scores]]
    measures: tuple[Measure, ...]
    official: Callable[[Sequence[Item], Given], Official]
    headline: str

    @property
    def facts(self) -> dict[str, Any]:
        """What is known of it, from facts/NAME.yaml: title, evaluator, judge, counts, prompts, defects."""
        return read_yaml(FACTS / f"{self.name}.yaml")
