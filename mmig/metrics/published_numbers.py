"""Published results as data: the tables in `published/`, with source and confidence of every number."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent / "published"
CONFIDENCES = ("read", "secondary", "unverified")
"""Read in the paper itself; read in somebody's notes on it; recalled or quoted without having been opened."""


class PublishedError(ValueError):
    """There is no such table, or its file breaks the format."""


@dataclass(frozen=True)
class PublishedRow:
    """One method in one setting.

    Attributes:
        method: name of the method.
        setting: what the numbers were measured on.
        source: where the numbers were taken from.
        confidence: one of `CONFIDENCES`.
        values: metric -> number, only those that were printed.
        unverified: metrics whose own number is less sure than the row.
    """

    method: str
    setting: str
    source: str
    confidence: str
    values: dict[str, float]
    unverified: list[str] = field(default_factory=list)

    def is_verified(self, metric: str) -> bool:
        """Whether the number of this metric was read somewhere."""
        return self.confidence != "unverified" and metric not in self.unverified


@dataclass(frozen=True)
class PublishedTable:
    """Rows measured under one protocol; numbers of two protocols never share a column.

    Attributes:
        title: what was measured.
        protocol: name of the protocol.
        metrics: our name of each column -> the name printed in the paper.
        rows: one a method and setting.
    """

    title: str
    protocol: str
    metrics: dict[str, str]
    rows: list[PublishedRow]


def published(name: str) -> PublishedTable:
    """The table `published/NAME.yaml`.

    Raises:
        PublishedError: for an unknown name, confidence or metric column.
    """
    path = FOLDER / f"{name}.yaml"
    known = sorted(file.stem for file in FOLDER.glob("*.yaml"))
    if name not in known:
        raise PublishedError(f"published numbers: {name!r} is unknown; expected one of {', '.join(known)}")
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    table = PublishedTable(**{**values, "rows": [PublishedRow(**row) for row in values["rows"]]})
    for row in table.rows:
        if row.confidence not in CONFIDENCES:
            expected = ", ".join(CONFIDENCES)
            raise PublishedError(f"{path}, {row.method}: confidence {row.confidence!r}; expected {expected}")
        if unknown := (row.values.keys() | set(row.unverified)) - table.metrics.keys():
            raise PublishedError(f"{path}, {row.method}: column {min(unknown)!r} is not among its metrics")
    return table
