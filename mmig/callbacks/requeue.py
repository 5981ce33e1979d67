"""Asking SLURM to run this job again."""

import os
import re
import subprocess
from typing import NamedTuple

SECONDS = 30
"""How long the controller may take to answer."""


class Requeue(NamedTuple):
    """Whether the job runs again, and what to tell about it."""

    done: bool
    text: str


def requeue_job() -> Requeue:
    """Requeue the SLURM job of this process, unless it is no job, or is being cancelled or already requeued.

    SLURM itself refuses a job that was submitted with --no-requeue or is no batch job. It would revive a cancelled
    one: therefore only a running job is requeued.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return Requeue(False, "the same command continues from there")
    try:
        state = re.search(r"JobState=(\w+)", _scontrol("show", "job", job))
        if state is None or state[1] != "RUNNING":
            return Requeue(False, f"job {job} is {state[1] if state else 'unknown'} and not requeued by itself")
        _scontrol("requeue", job)
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines()[-1]
        return Requeue(False, f"job {job} could not be requeued ({said}); submit it again")
    return Requeue(True, f"job {job} is requeued and continues from there")


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=SECONDS).stdout
