"""Curves on a disk that is full, and then no longer."""

import logging
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmig.run.curves import Curves


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB, all of it taken by the file "filler"."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    (folder / "filler").write_bytes(bytes(65536))
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def values(folder: Path) -> dict[int, float]:
    found = {}
    for file in folder.glob("events.*"):
        events = EventAccumulator(str(file))
        events.Reload()
        if "loss" in events.Tags()["scalars"]:
            found |= {event.step: event.value for event in events.Scalars("loss")}
    return found


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_disk_costs_values_and_not_the_run(full_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    curves = Curves(full_disk, name="run", version="tensorboard", retry_seconds=0)
    with caplog.at_level(logging.WARNING):
        for step in range(3):
            curves.log_metrics({"loss": float(step)}, step)
            curves.log_image("grid", [np.zeros((8, 8, 3), np.uint8)], step)
            curves.save()
    said = [record.getMessage() for record in caplog.records if "curves are not written" in record.getMessage()]
    assert len(said) == 1 and "No space left on device" in said[0]
    (full_disk / "filler").unlink()
    curves.log_metrics({"loss": 3.0}, 3)
    curves.save()
    curves.finalize("success")
    assert values(full_disk / "run" / "tensorboard") == {3: 3.0}


def test_what_cannot_be_logged_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="currently not supported"):
        Curves(tmp_path).log_metrics({"loss": object()}, 0)
