"""An arm of a comparison: a row's configuration with a training seed, its commands and its folders."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.phases import OWN, Phase, read_phases
from mmig.base.files import replacing
from mmig.evaluation.protocol import Part
from mmig.evaluation.settings import read_yaml
from mmig.run.jobs import point_name, points

BASE, FIRST, PROTOCOL = "base", "first", "protocol"
"""Names of files and folders beside the rows."""
MARKS = ("{run}", "{seed}")
"""In the configuration of an editor's row."""


@dataclass(frozen=True)
class Arm:
    """A row with a training seed.

    A row that is an editor (`editor:` in its configuration, as evaluate.py takes it) has no training of its own; in it
    "{run}" stands for the folder of its run, "{seed}" for its seed.

    Attributes:
        row: its configuration.
        seed: of weights, draws and order.
        runs: folder of its run.
    """

    row: Path
    seed: int
    runs: Path

    @property
    def name(self) -> str:
        """Of its run."""
        return f"{self.row.parent.name}-{self.row.stem}-{self.seed}"

    @property
    def is_editor(self) -> bool:
        """Whether its row is an editor's configuration."""
        return "editor" in read_yaml(self.row)

    @property
    def has_seeds(self) -> bool:
        """Whether it is another one with another seed."""
        return not self.is_editor or any(mark in self.row.read_text(encoding="utf-8") for mark in MARKS)

    def trainings(self, more: Sequence[str]) -> list[list[str]]:
        """Commands that train it, or go on; `more` are arguments of its own alone."""
        files = [self.row.with_name(f"{BASE}.yaml"), *([] if self.row.stem == BASE else [self.row])]
        phases = self._phases(files)
        names = {phase.name: self.name if phase.name == OWN else f"{self.name}-{phase.name}" for phase in phases}
        runs = {phase: str(self.runs / name) for phase, name in names.items()}
        return [
            self._training(
                names[phase.name],
                phase.configs or files,
                [*phase.words(runs, self._run_of(phase.row), self.seed), *(more if phase.name == OWN else [])],
            )
            for phase in phases
        ]

    @property
    def start(self) -> Path | None:
        """The row that this one starts from, where it is another row of the folder."""
        rows = [phase.row for phase in read_phases(self.row.parent, self.row.stem, own=not self.is_editor) if phase.row]
        return self.row.with_name(f"{rows[0]}.yaml") if rows else None

    def _run_of(self, row: str) -> str:
        return str(self.runs / f"{self.row.parent.name}-{row}-{self.seed}")

    def _phases(self, files: Sequence[Path]) -> list[Phase]:
        """Those of phases.yaml; else that of `first`, where there is one, and the row's own."""
        if (phases := read_phases(self.row.parent, self.row.stem, own=not self.is_editor)) or self.is_editor:
            return phases
        first = self.row.parent / FIRST / self.row.name
        begun = [Phase(FIRST, (*files, first))] if first.is_file() else []
        return [*begun, Phase(OWN, init_from=FIRST if begun else "")]

    def _training(self, name: str, files: Sequence[Path], more: Sequence[str]) -> list[str]:
        seed, own = str(self.seed), ("--seed_everything", "--model.init_args.seed", "--data.init_args.seed")
        return [
            *("train.py", "fit", *(word for file in files for word in ("--config", str(file)))),
            *("--name", name, "--runs", str(self.runs), *(word for option in own for word in (option, seed)), *more),
        ]

    @property
    def protocol(self) -> Path:
        """The file that says how it is scored: the row's own, or that of all."""
        own = self.row.parent / PROTOCOL / self.row.name
        return own if own.is_file() else self.row.with_name(f"{PROTOCOL}.yaml")

    def evaluation(
        self, part: Part, limit: int, point: Mapping[str, Any] | None = None, precision: str = "auto"
    ) -> list[str]:
        """Command that scores it at a point, or goes on; every arm sees the same samples with the same noise."""
        sampling = [f"{name}={value}" for name, value in (point or {}).items()]
        return [
            *("evaluate.py", "--protocol", str(self.protocol), "--parts", part.name),
            *self._system(),
            *("--limit", str(limit), "--keep-pictures", "24"),
            *("--precision", precision),
            *("--out", str(self.runs / self.name / part.name), *(["--sampling", *sampling] if sampling else [])),
        ]

    def _system(self) -> tuple[str, str]:
        return ("--config", str(self._editor)) if self.is_editor else ("--checkpoint", str(self.runs / self.name))

    @property
    def _editor(self) -> Path:
        return self.runs / self.name / "editor.yaml"

    def write_editor(self) -> None:
        """Write the configuration of an editor's row with what its marks stand for."""
        written = self.row.read_text(encoding="utf-8")
        for mark, value in zip(MARKS, (str(self.runs / self.name), str(self.seed)), strict=True):
            written = written.replace(mark, value)
        with replacing(self._editor) as partial:
            partial.write_text(written, encoding="utf-8")

    def folders(self, part: Part) -> dict[str, Path]:
        """Where its evaluations of a part go, by what tables call them: the part, or it at each point of its grid."""
        folder = self.runs / self.name / part.name
        names = [point_name(point) for point in points(part.grid)]
        return {" ".join(filter(None, (part.name, name))): folder / name for name in names}

    def is_scored(self, part: Part) -> bool:
        """Whether its evaluations of a part have ended."""
        return all(is_finished(folder) for folder in self.folders(part).values())


def is_finished(evaluation: Path) -> bool:
    """Whether an evaluation has ended, by its folder."""
    return (evaluation / "metrics.json").is_file()
