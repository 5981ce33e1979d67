"""From a command line of evaluate.py to single evaluations: every system, on every data set of a protocol, at every
point of a grid of sampling settings.
"""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any

from mmig.evaluation.finished import short_names
from mmig.evaluation.protocol import Part, Protocol, read_protocol, with_data, with_parts

SYSTEMS = ("checkpoint", "config", "images")
"""Options that name what is scored."""


@dataclass(frozen=True)
class Job:
    """One evaluation.

    Attributes:
        arguments: of one system on one data set at one point, as if it were asked for alone.
        system: its name among those of the command.
        part: of the protocol; None without one.
        point: the sampling settings of the grid; {} without one.
    """

    arguments: Namespace
    system: str
    part: Part | None
    point: Mapping[str, Any]

    @property
    def out(self) -> Path:
        """Its folder."""
        return Path(self.arguments.out)

    @property
    def part_name(self) -> str:
        """Of its part; "" without a protocol."""
        return self.part.name if self.part else ""


@dataclass(frozen=True)
class Plan:
    """What a command asks for.

    Attributes:
        jobs: the evaluations, those of one data set and point side by side.
        protocol: on its data; None without one.
    """

    jobs: list[Job]
    protocol: Protocol | None

    def groups(self) -> dict[Path, list[Job]]:
        """Jobs of the same samples at the same point by their common folder, where there are several systems."""
        found: dict[Path, list[Job]] = {}
        if len({job.system for job in self.jobs}) > 1:
            for job in self.jobs:
                found.setdefault(job.out.parent, []).append(job)
        return found


def planned(arguments: Namespace) -> Plan:
    """The evaluations of a command line.

    Folders below --out: one a data set of the protocol, in it one a point of the grid, in it one a system; a level of
    which there is only one is left out.

    Raises:
        ValueError: the options do not fit together, or name what is not there.
    """
    systems = named_systems(arguments)
    if arguments.protocol is None and len(arguments.data or ()) != 1:
        raise ValueError("--data: expected one YAML with a `data` section, or --protocol")
    protocol = _asked_protocol(arguments)
    parts: Sequence[Part | None] = [None] if protocol is None else protocol.parts
    seeds = arguments.seeds or (1 if protocol is None else protocol.seeds)
    sampling = sampling_of(arguments.sampling, [*systems])
    jobs = []
    for part in parts:
        grid = asked_grid(arguments.grid) or (part.grid if part else {})
        _check_apart(grid, [setting for settings in sampling.values() for setting in settings])
        for point in points(grid):
            for name, named in systems.items():
                levels = [part.name] if part and len(parts) > 1 else []
                levels += [point_name(point)] if point else []
                levels += [name] if len(systems) > 1 else []
                given = {**vars(arguments), **named, **_of_part(arguments, part), "seeds": seeds}
                settings = [*sampling[name], *(f"{setting}={value}" for setting, value in point.items())]
                given |= {"sampling": settings, "out": str(Path(arguments.out, *levels))}
                jobs.append(Job(Namespace(**given), name, part, point))
    return Plan(jobs, protocol)


def sampling_of(given: Sequence[str], systems: Sequence[str]) -> dict[str, list[str]]:
    """Settings NAME=VALUE of each system, from words of that form or, for some systems alone, PATTERN:NAME=VALUE.

    Args:
        given: the words; a pattern is one of shells (`stage*`), compared with the systems' names.
        systems: their names.

    Raises:
        ValueError: a pattern that fits no system.
    """
    found: dict[str, list[str]] = {system: [] for system in systems}
    for text in given:
        before, there, _ = text.partition("=")[0].rpartition(":")
        fitting = [system for system in systems if not there or fnmatchcase(system, before)]
        if not fitting:
            raise ValueError(f"--sampling {text}: no system fits {before!r}; there are {', '.join(systems)}")
        for system in fitting:
            found[system].append(text.removeprefix(f"{before}{there}"))
    return found


def _check_apart(grid: Mapping[str, Sequence[Any]], sampling: Sequence[str]) -> None:
    """Refuse a setting that the grid would change, and points that would share a folder."""
    for text in sampling:
        if (name := text.partition("=")[0]) in grid:
            given = ",".join(map(str, grid[name]))
            raise ValueError(f"--sampling {text}: the grid has {name}={given}; give the values that you want to --grid")
    names = [point_name(point) for point in points(grid)]
    if repeated := _first_repeated(names):
        raise ValueError(f"--grid: two points would lie in one folder, {repeated}; expected values that differ there")


def _asked_protocol(arguments: Namespace) -> Protocol | None:
    if arguments.protocol is not None:
        return with_data(with_parts(read_protocol(arguments.protocol), arguments.parts), arguments.data or ())
    if arguments.parts:
        raise ValueError("--parts: expected a --protocol, which has parts")
    return None


def _of_part(arguments: Namespace, part: Part | None) -> dict[str, Any]:
    if part is None:
        return {"data": arguments.data[0], "split": arguments.split or "test"}
    flags = {name: getattr(arguments, name) or getattr(part, name) for name in ("turns", "layered")}
    return {"data": str(part.data), "split": arguments.split or part.split, **flags}


def named_systems(arguments: Namespace) -> dict[str, dict[str, str | None]]:
    """By a short name what is scored, as single values of the options that name it.

    Raises:
        ValueError: nothing is named, something twice, or two things whose folders would have one name.
    """
    named = [(option, value) for option in SYSTEMS for value in getattr(arguments, option) or ()]
    if not named:
        raise ValueError("nothing to score: expected --checkpoint, --config or --images")
    paths = [Path(value).resolve() for _, value in named]
    if repeated := next((value for place, (_, value) in enumerate(named) if paths[place] in paths[:place]), None):
        raise ValueError(f"{repeated}: given twice; expected different systems")
    shown = [path.with_suffix("") if path.suffix in (".yaml", ".yml") else path for path in paths]
    parts = short_names(shown if len(set(shown)) == len(shown) else paths)
    names = [name.replace("/", "-") for name in parts]
    if shared := _first_repeated(names):
        raise ValueError(f"two systems would both be called {shared!r}; move or link one of them to another path")
    empty: dict[str, str | None] = dict.fromkeys(SYSTEMS)
    return {name: {**empty, option: value} for name, (option, value) in zip(names, named, strict=True)}


def asked_grid(given: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """A grid from words NAME=VALUE,VALUE.

    Raises:
        ValueError: for another form, a name or value twice.
    """
    grid: dict[str, tuple[str, ...]] = {}
    for text in given:
        name, there, values = text.partition("=")
        found = tuple(value.strip() for value in values.split(","))
        if not there or not name or not all(found):
            raise ValueError(f"--grid {text}: expected NAME=VALUE,VALUE, such as image_guidance_scale=1.0,1.4,1.8")
        if name in grid or len(set(found)) < len(found):
            raise ValueError(f"--grid {text}: a name or value is there twice")
        grid[name] = found
    return grid


def points(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every combination of the values; [{}] of no grid."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def point_name(point: Mapping[str, Any]) -> str:
    """Name of a point's folder."""
    return ",".join(f"{name}={value}" for name, value in point.items()).replace("/", "-")


def _first_repeated(names: Sequence[str]) -> str | None:
    return next((name for place, name in enumerate(names) if name in names[:place]), None)
