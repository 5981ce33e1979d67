"""Published protocols as data: which samples, metrics and models, and with which numbers the result may share a table.

A protocol is a YAML such as configs/evaluation/protocols/magicbrush.yaml; `evaluate.py --protocol` carries it out. One
that says `like: ../protocol.yaml` is as that one beside it, but for what it says itself of the whole and of its parts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from mmig.base.paths import resolved
from mmig.evaluation.settings import ScoringSettings, SettingsError, read_yaml
from mmig.metrics.base import NO_PICTURE
from mmig.metrics.published_numbers import PublishedTable, published
from mmig.metrics.suite import build_metrics

FOLDER = Path("configs/evaluation/protocols")


@dataclass(frozen=True)
class Column:
    """What stands in one column of a published table.

    Attributes:
        metric: ours.
        times: what ours is multiplied with there.
    """

    metric: str
    times: float = 1.0


@dataclass(frozen=True)
class Part:
    """One data set of a protocol.

    Attributes:
        name: of its folder and its table.
        data: YAML with a `data` section.
        scoring: metrics and models.
        split: of the data.
        turns: whether a sample is a session that is edited turn by turn.
        layered: whether the editor is to treat object and background apart, as with --layered.
        num_samples: how many the protocol has; None where it does not say.
        settings: which rows of the published table are of this part.
        columns: column of the published table -> what stands there.
        grid: sampling setting -> values; each of them is an evaluation of its own.
        curve: metrics (across, up) that are drawn against each other over the grid.
    """

    name: str
    data: Path
    scoring: ScoringSettings
    split: str = "test"
    turns: bool = False
    layered: bool = False
    num_samples: int | None = None
    settings: tuple[str, ...] = ()
    columns: Mapping[str, Column] = field(default_factory=dict)
    grid: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    curve: tuple[str, str] | None = None


@dataclass(frozen=True)
class Protocol:
    """How a paper measures.

    Attributes:
        name: of its file.
        title: paper and table.
        parts: its data sets.
        seeds: number of sampling seeds.
        table: the published numbers, if there are any.
        unstated: what the paper does not say, so that no number of ours is surely measured as its are.
        not_reproduced: what it reports beside, which needs people or is not to be had.
        notes: what else must hold for its numbers, which no program sees.
    """

    name: str
    title: str
    parts: tuple[Part, ...]
    seeds: int = 1
    table: PublishedTable | None = None
    unstated: tuple[str, ...] = ()
    not_reproduced: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_protocol(name: str | Path) -> Protocol:
    """A protocol by the name of its file in configs/evaluation/protocols, or by a path.

    Raises:
        SettingsError: naming the file, for an unknown name, key, metric column or published setting.
        PublishedError: for an unknown table.
    """
    path = Path(name)
    if not path.suffix:
        known = sorted(file.stem for file in resolved(FOLDER).glob("*.yaml"))
        if str(name) not in known:
            raise SettingsError(f"--protocol {name}: expected a YAML, or one of {', '.join(known)}")
        path = resolved(FOLDER / f"{name}.yaml")
    values = _read(path)
    _check_keys(
        values, {"title", "parts", "seeds", "published", "scoring", "unstated", "not_reproduced", "notes"}, path
    )
    parts, scoring = values.get("parts"), values.get("scoring") or {}
    if not isinstance(values.get("title"), str) or not isinstance(parts, dict) or not parts:
        raise SettingsError(
            f"{path}: expected a `title` and a mapping `parts`, found {values.get('title')!r}, {parts!r}"
        )
    table = None if values.get("published") is None else published(values["published"])
    return Protocol(
        path.stem,
        values["title"],
        tuple(_part(str(name), part, scoring, table, f"{path}: parts.{name}") for name, part in parts.items()),
        values.get("seeds", 1),
        table,
        _listed(values.get("unstated")),
        _listed(values.get("not_reproduced")),
        _listed(values.get("notes")),
    )


def _read(path: Path) -> dict[str, Any]:
    """What a file says, on top of what the protocol says that it is like."""
    values = read_yaml(path)
    other = values.pop("like", None)
    if other is None:
        return values
    if not isinstance(other, str):
        raise SettingsError(f"{path}: like: expected the path of another protocol, found {other!r}")
    whole = read_yaml(path.parent / other)
    if "like" in whole:
        raise SettingsError(f"{path}: like: expected a whole protocol, found {other}, which is like another one")
    return dict(_over(whole, values))


def _over(whole: Any, own: Any) -> Any:
    """A value on top of another one, mapping by mapping."""
    if not (isinstance(whole, dict) and isinstance(own, dict)):
        return own
    return whole | {name: _over(whole.get(name), value) for name, value in own.items()}


def _check_keys(values: Any, known: set[str], origin: Any) -> None:
    if not isinstance(values, dict):
        raise SettingsError(f"{origin}: expected a mapping, found {values!r}")
    if unknown := values.keys() - known:
        raise SettingsError(f"{origin}: unknown key {min(unknown)!r}; expected some of {', '.join(sorted(known))}")


def _part(name: str, values: Any, scoring: Mapping[str, Any], table: PublishedTable | None, origin: str) -> Part:
    _check_keys(values, {item.name for item in fields(Part)} - {"name"}, origin)
    if not isinstance(values.get("data"), str):
        raise SettingsError(
            f"{origin}.data: expected the path of a YAML with a `data` section, found {values.get('data')!r}"
        )
    scored = {**scoring, **(values.get("scoring") or {})}
    _check_keys(scored, {item.name for item in fields(ScoringSettings)}, f"{origin}.scoring")
    if not scored.get("metrics"):
        raise SettingsError(f"{origin}.scoring.metrics: expected the protocol's metrics, found none")
    columns = {
        column: _column(found, f"{origin}.columns.{column}") for column, found in _columns(values, scored, table)
    }
    settings = _listed(values.get("settings"))
    for column, found in columns.items():
        if table is None or column not in table.metrics:
            raise SettingsError(f"{origin}.columns: {column!r} is no column of the published table")
        if found.metric not in scored["metrics"]:
            raise SettingsError(f"{origin}.columns.{column}: {found.metric!r} is not among the metrics")
    if unknown := set(settings) - {row.setting for row in table.rows if table} if table else set(settings):
        raise SettingsError(f"{origin}.settings: no published row is of {min(unknown)!r}")
    given = {key: value for key, value in values.items() if key in ("split", "turns", "layered", "num_samples")}
    curve = values.get("curve")
    if curve is not None and not (isinstance(curve, list) and len(curve) == 2 and set(curve) <= {*scored["metrics"]}):
        raise SettingsError(f"{origin}.curve: expected two of the metrics, found {curve!r}")
    return Part(
        name,
        Path(values["data"]),
        ScoringSettings(**scored),
        settings=settings,
        columns=columns,
        grid={setting: _listed(choices) for setting, choices in (values.get("grid") or {}).items()},
        curve=None if curve is None else (curve[0], curve[1]),
        **given,
    )


def _columns(
    values: Mapping[str, Any], scored: Mapping[str, Any], table: PublishedTable | None
) -> list[tuple[str, Any]]:
    """Columns and what stands there; where nothing is said, those that are called as our metrics."""
    given = values.get("columns")
    if given is None and table is not None:
        return [(name, name) for name in table.metrics if name in scored["metrics"]]
    return list((given or {}).items())


def _column(found: Any, origin: str) -> Column:
    if isinstance(found, str):
        return Column(found)
    _check_keys(found, {item.name for item in fields(Column)}, origin)
    return Column(**found)


def _listed(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, list) else () if value is None else (value,)


def with_parts(protocol: Protocol, names: Sequence[str]) -> Protocol:
    """The protocol on some of its data sets; all, if none is named.

    Raises:
        SettingsError: there is no such part.
    """
    known = [part.name for part in protocol.parts]
    if unknown := [name for name in names if name not in known]:
        raise SettingsError(f"--parts {unknown[0]}: the protocol {protocol.name} has {', '.join(known)}")
    return replace(protocol, parts=tuple(part for part in protocol.parts if part.name in names or not names))


def with_data(protocol: Protocol, given: Sequence[str]) -> Protocol:
    """The protocol on data elsewhere.

    Args:
        protocol: as read.
        given: YAMLs as "PART=FILE"; or one FILE, of a protocol with one part.

    Raises:
        SettingsError: there is no such part, or it is not said which is meant.
    """
    names = [part.name for part in protocol.parts]
    chosen: dict[str, Path] = {}
    for text in given:
        name, there, file = text.partition("=")
        if not there and len(names) == 1:
            name, file = names[0], text
        if name not in names or not file:
            raise SettingsError(f"--data {text}: expected PART=FILE, PART being one of {', '.join(names)}")
        chosen[name] = Path(file)
    parts = tuple(replace(part, data=chosen.get(part.name, part.data)) for part in protocol.parts)
    return replace(protocol, parts=parts)


def deviations(protocol: Protocol, part: Part, report: Mapping[str, Any]) -> list[str]:
    """Why figures of an evaluation may not stand in one column with the published ones, in words; [] if they may.

    Args:
        protocol, part: what should have been measured.
        report: metrics.json of the evaluation; `scoring` and `limit` say how it was asked for.
    """
    told = [f"the paper does not say: {'; '.join(protocol.unstated)}"] if protocol.unstated else []
    if part.num_samples is not None and report["num_samples"] != part.num_samples:
        told.append(f"{report['num_samples']} samples, where the protocol has {part.num_samples}")
    elif part.num_samples is None and report.get("limit") is not None:
        told.append(f"the first {report['limit']} samples alone")
    if len(report["seeds"]) != protocol.seeds:
        told.append(f"sampling seeds {len(report['seeds'])}, where the protocol has {protocol.seeds}")
    wanted, scored = vars(part.scoring), report["scoring"]
    for name in _counted(part.scoring):
        if scored.get(name) != wanted[name]:
            told.append(f"{name} {scored.get(name)}, where the protocol has {wanted[name]}")
    return told + _skipped(part, report)


def _skipped(part: Part, report: Mapping[str, Any]) -> list[str]:
    """Edits that a published column's mean is without, which the paper's may be of: by metric and reason."""
    columns = {column.metric for column in part.columns.values()}
    skipped = {name: value["skipped"] for name, value in report["metrics"].items() if name in columns}
    missing = max((reasons.get(NO_PICTURE, 0) for reasons in skipped.values()), default=0)
    told = [f"no picture of {missing} edits"] if missing else []
    for name, reasons in skipped.items():
        told += [f"{name} has no value of {n} edits ({why})" for why, n in reasons.items() if why != NO_PICTURE]
    return told


def _counted(scoring: ScoringSettings) -> list[str]:
    """Settings of the models that its metrics need; where files of weights lie does not count."""
    needs = {need for metric in build_metrics(scoring.metrics).values() for need in metric.needs}
    return [name for need, names in _MODELS.items() if need in needs for name in names]


_MODELS = {
    "clip": ("clip", "clip_weights", "preprocessing"),
    "dino": ("dino", "dino_preprocessing"),
    "lpips": ("lpips",),
    "features": ("features",),
}
