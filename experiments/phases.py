"""Trainings of a row of a comparison that come before its own, in their order, and what each takes of the ones before.

A file phases.yaml beside the rows has, by the row's name, the phases by theirs:

    any2pix:
      prior: {configs: [prior.yaml], options: {trainer.max_steps: 100}}
      first: {configs: [base.yaml, first.yaml], backbones: {prior: prior}}
      own: {backbones: {prior: prior}, init_from: first}
    stage2: {own: {row: stage1, options: {data.init_args.seed: "2{seed}"}}}

`configs`: of train.py, beside phases.yaml or in the repository. `backbones`: arguments of the model that are the run of
an earlier phase; `init_from`: the phase whose weights it starts from; `row`: in its place another row of the folder,
whose run with the same seed is there before; `options`: further ones of train.py, "{seed}" standing for the row's seed.
`own`, the last, is the row's own training, whose configurations are the row's; a row that is an editor has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from experiments.demo import ROOT
from mmig.evaluation.settings import SettingsError, read_yaml

FILE, OWN = "phases", "own"


@dataclass(frozen=True)
class Phase:
    """One of the trainings.

    Attributes:
        name: of its run, behind that of the row and seed; "own" of the row's own.
        configs: its configurations; none of the row's own.
        backbones: argument of the model -> the phase whose run it is.
        init_from: the phase whose weights it starts from; "" for none.
        row: the other row whose weights it starts from; "" for none.
        options: of train.py -> value.
    """

    name: str
    configs: tuple[Path, ...] = ()
    backbones: Mapping[str, str] = field(default_factory=dict)
    init_from: str = ""
    row: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    def words(self, runs: Mapping[str, str], run_of_row: str, seed: int) -> list[str]:
        """Arguments of train.py beside the configurations, with the runs of the phases by their names, and that of the
        row it starts from.
        """
        found = [word for name, phase in self.backbones.items() for word in (f"--model.init_args.{name}", runs[phase])]
        found += ["--init_from", runs[self.init_from]] if self.init_from else []
        found += ["--init_from", run_of_row] if self.row else []
        told = {option: str(value).replace("{seed}", str(seed)) for option, value in self.options.items()}
        return found + [word for option, value in told.items() for word in (f"--{option}", value)]


def read_phases(folder: Path, row: str, own: bool = True) -> list[Phase]:
    """The phases of a row in their order, its own the last; none where phases.yaml does not speak of it.

    Args:
        folder: of the rows.
        row: its name.
        own: whether it has a training of its own.

    Raises:
        SettingsError: an unknown key, a configuration that is not there, or a phase that does not come before.
    """
    path = folder / f"{FILE}.yaml"
    found = (read_yaml(path).get(row) or {}) if path.is_file() else {}
    phases: list[Phase] = []
    for name, entry in found.items():
        phases.append(_phase(name, entry, folder, f"{path}: {row}.{name}"))
        _check_order(phases, f"{path}: {row}.{name}")
        _check_row(phases, row, folder, f"{path}: {row}.{name}")
    names = [phase.name for phase in phases]
    if own and names and names[-1] != OWN:
        raise SettingsError(f"{path}: {row}: expected {OWN!r} as the last phase, found {names[-1]!r}")
    if not own and OWN in names:
        raise SettingsError(f"{path}: {row}: expected no {OWN!r}, for the row is an editor")
    return phases


def _phase(name: str, entry: Any, folder: Path, origin: str) -> Phase:
    known = {item.name for item in fields(Phase)} - {"name"}
    if not isinstance(entry, dict) or entry.keys() - known:
        raise SettingsError(f"{origin}: expected a mapping with some of {', '.join(sorted(known))}, found {entry!r}")
    given = entry.get("configs") or []
    if bool(given) == (name == OWN):
        expected = "none, for they are the row's" if given else "some, found none"
        raise SettingsError(f"{origin}.configs: expected {expected}")
    configs = tuple(_config(Path(config), folder, origin) for config in given)
    return Phase(name, **{**entry, "configs": configs})


def _config(config: Path, folder: Path, origin: str) -> Path:
    for place in (folder / config, ROOT / config):
        if place.is_file():
            return place
    raise SettingsError(f"{origin}.configs: {config} is neither in {folder} nor in the repository")


def _check_row(phases: Sequence[Phase], own: str, folder: Path, origin: str) -> None:
    phase = phases[-1]
    if not phase.row:
        return
    if phase.init_from:
        raise SettingsError(f"{origin}: row {phase.row!r} and init_from {phase.init_from!r}: expected one of them")
    if phase.row == own or not (folder / f"{phase.row}.yaml").is_file():
        raise SettingsError(f"{origin}.row: expected another row of {folder}, found {phase.row!r}")
    if others := {each.row for each in phases[:-1]} - {"", phase.row}:
        raise SettingsError(f"{origin}.row: expected one other row for all phases, found {min(others)!r} before")


def _check_order(phases: Sequence[Phase], origin: str) -> None:
    last = phases[-1]
    before = [phase.name for phase in phases[:-1]]
    for wanted in (*last.backbones.values(), *([last.init_from] if last.init_from else [])):
        if wanted not in before:
            raise SettingsError(f"{origin}: {wanted!r} is none of the phases before it ({', '.join(before) or 'none'})")
