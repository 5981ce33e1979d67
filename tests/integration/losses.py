"""Losses of a run from its TensorBoard log."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def logged(run: Path, tag: str = "train/loss") -> dict[int, float]:
    """Value of each step; where a step was done again after a crash, the later one counts."""
    found: dict[int, tuple[float, float]] = {}
    for file in (run / "tensorboard").glob("events.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for event in events.Scalars(tag) if tag in events.Tags()["scalars"] else ():
            if event.wall_time > found.get(event.step, (0.0, 0.0))[0]:
                found[event.step] = (event.wall_time, event.value)
    return {step: value for step, (_, value) in found.items()}
