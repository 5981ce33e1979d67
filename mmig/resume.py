"""What may change between two submissions of one run, and what may not."""

from typing import Any

FREE_DATA_SETTINGS = {"num_workers", "prefetch_factor", "root", "train", "val", "test", "eval_batch_size", "limit_eval"}
"""Data settings that change where samples come from or how fast, not which sample comes when.

The stream itself refuses another index, seed or global batch size, so a moved folder is safe."""

FREE_MODEL_SETTINGS = {"micro_batch_size", "gradient_checkpointing"}


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


def trajectory_settings(config: dict[str, Any]) -> dict[str, Any]:
    """The settings on which the sequence of weights depends, by dotted name."""
    chosen = {"model": config.get("model"), "data": config.get("data"), "ema": config.get("ema")}
    flat = flatten(chosen)
    trainer = config.get("trainer", {})
    flat["trainer.precision"] = trainer.get("precision")
    optimizer = ((config.get("model") or {}).get("init_args") or {}).get("optimizer") or {}
    if optimizer.get("schedule") == "cosine" and optimizer.get("total_steps") is None:
        flat["trainer.max_steps"] = trainer.get("max_steps")
    # a group that sets nothing is clipped apart from the rest all the same
    flat["optimizer.groups"] = sorted(optimizer.get("groups") or {}) or None
    free = FREE_DATA_SETTINGS | FREE_MODEL_SETTINGS
    return {name: value for name, value in flat.items() if name.rsplit(".", 1)[-1] not in free}


def check_resumable(saved: dict[str, Any], current: dict[str, Any]) -> None:
    """Raise ResumeError where a setting that would bend the trajectory differs from the run's config.yaml."""
    classes = [(config.get("model") or {}).get("class_path") for config in (saved, current)]
    if classes[0] != classes[1]:
        raise ResumeError(
            f"the checkpoint was written by {classes[0]}, this run trains {classes[1]}: --resume continues one run "
            "exactly; start a new run, under a --name of its own, from these weights with --init_from"
        )
    before, now = trajectory_settings(saved), trajectory_settings(current)
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if changed:
        listed = "; ".join(f"{name}: {before.get(name)!r} -> {now.get(name)!r}" for name in changed[:5])
        raise ResumeError(
            f"cannot continue this run with other settings ({len(changed)} changed): {listed}. "
            "Give the old values, choose another --name, or start a new run from these weights with --init_from"
        )
