"""What may change between two submissions of one run, and what may not."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from mmig.backbones.named import as_backbone, setting_value
from mmig.base.settings import RefusedSettingsError, imported
from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.run.parser import OneLineParser, plain_values

ARGUMENTS = "model.init_args"
FREE_SETTINGS = (
    # where samples come from and how fast; the stream itself refuses another index, seed or global batch size
    "data.init_args.root",
    "data.init_args.train",
    "data.init_args.index_directory",
    "data.init_args.features",
    "data.init_args.storage",
    "data.init_args.num_workers",
    "data.init_args.writers",
    "data.init_args.max_bad_fraction",
    # what is measured while training, not what is trained
    "data.init_args.val",
    "data.init_args.test",
    "data.init_args.val_count",
    "data.init_args.test_count",
    "data.init_args.test_split",
    "data.init_args.limit_val",
    "data.init_args.limit_test",
    "data.init_args.eval_batch_size",
    "model.init_args.sampling",
    # memory and speed
    "model.init_args.micro_batch_size",
    "model.init_args.gradient_checkpointing",
    "model.init_args.backbones.gradient_checkpointing",
)
"""Settings that may change, with all below them, by their whole names."""


@dataclass(frozen=True)
class Moving:
    """A path of which only counts that there is one: what lies there is judged by its fingerprint."""

    path: str = field(compare=False)

    def __repr__(self) -> str:
        return repr(self.path)


class ResumeError(ValueError):
    """The run cannot be continued with these settings."""


def flatten(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one level with dotted names."""
    if not isinstance(settings, dict):
        return {prefix: settings}
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat.update(flatten(value, f"{prefix}.{name}" if prefix else str(name)))
    return flat


def backbone_settings(config: dict[str, Any]) -> list[str]:
    """Settings that name folders or hub ids of pretrained parts, by their whole names.

    These may move: the fingerprints in the checkpoint decide whether the weights are the same.
    """
    class_path = (config.get("model") or {}).get("class_path")
    if class_path is None:
        return []
    try:
        return [f"{ARGUMENTS}.{setting}" for setting in imported(class_path).backbone_settings]
    except RefusedSettingsError as error:
        raise ResumeError(f"the run's config.yaml names {class_path}, which this code does not have") from error


def trajectory_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings on which the sequence of weights depends, by dotted name; of a backbone, its path as a `Moving`."""
    chosen = {"model": config.get("model"), "data": config.get("data"), "ema": config.get("ema")}
    flat = flatten(chosen)
    for name in backbone_settings(config):
        if backbone := as_backbone(setting_value(chosen, name), name):
            for part_of_it in (f"{name}.path", f"{name}.part"):
                flat.pop(part_of_it, None)
            flat |= {name: Moving(backbone.path)} | ({f"{name}.part": backbone.part} if backbone.part else {})
    trainer = config.get("trainer", {})
    flat["trainer.precision"] = trainer.get("precision")
    optimizer = ((config.get("model") or {}).get("init_args") or {}).get("optimizer") or {}
    if optimizer.get("schedule") == "cosine" and optimizer.get("total_steps") is None:
        flat["trainer.max_steps"] = trainer.get("max_steps")
        if trainer.get("max_epochs") not in (None, -1):
            flat["trainer.max_epochs"] = trainer["max_epochs"]
    # a group that sets nothing is clipped apart from the rest all the same
    flat["optimizer.groups"] = sorted(optimizer.get("groups") or {}) or None
    return {name: value for name, value in flat.items() if not _is_free(name)}


def _is_free(name: str) -> bool:
    return any(f"{name}.".startswith(f"{free}.") for free in FREE_SETTINGS)


def check_resumable(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ResumeError where a setting that would bend the trajectory differs from the run's config.yaml."""
    classes = [(config.get("model") or {}).get("class_path") for config in (saved, current)]
    if classes[0] != classes[1]:
        raise ResumeError(
            f"the checkpoint was written by {classes[0]}, this run trains {classes[1]}: --resume continues one run "
            "exactly; start a new run, under a --name of its own, from these weights with --init_from"
        )
    before, now = trajectory_settings(saved), trajectory_settings(current)
    names = sorted(before.keys() | now.keys())
    changed = [name for name in names if before.get(name) != now.get(name)]
    if changed:
        listed = "; ".join(f"{name}: {before.get(name)!r} -> {now.get(name)!r}" for name in changed[:5])
        raise ResumeError(
            f"cannot continue this run with other settings ({len(changed)} changed): {listed}. "
            "Give the old values, choose another --name, or start a new run from these weights with --init_from"
        )


def check_settings(parser: OneLineParser, run: Path, resume: Path, config: dict[str, Any]) -> None:
    """Refuse other settings than those of this run so far, and of the run that the checkpoint belongs to.

    Args:
        parser: of train.py's subcommand.
        run: folder of the run.
        resume: the checkpoint that it is to continue from.
        config: its settings now.

    Raises:
        ResumeError: see `check_resumable`.
    """
    files = {(folder / "config.yaml").resolve() for folder in (run, *resume.parents[:2])}
    for file in sorted(files):
        if file.exists():
            _check(parser, yaml.safe_load(file.read_text(encoding="utf-8")), config)
    saved = read_checkpoint(resume, outline=True).get("manifest", {}).get("config")  # it may lie alone
    if saved is not None:
        _check(parser, saved, config)


def _check(parser: OneLineParser, saved: dict[str, Any], config: dict[str, Any]) -> None:
    try:
        check_resumable(saved, config)
    except ResumeError:  # maybe for want of settings that are newer than the run; to parse it again takes a while
        check_resumable(_with_defaults(parser, saved), config)


def _with_defaults(parser: OneLineParser, saved: dict[str, Any]) -> dict[str, Any]:
    """A run's settings with the defaults of those that the code has got since; as they are if it lost some."""
    parser.exit_on_error = False
    try:
        completed = parser.parse_object(saved)
    except ArgumentError:
        return saved
    finally:
        parser.exit_on_error = True
    return plain_values(parser, completed)
