"""What is around this machine: SLURM, and the hub that published backbones come from."""

import os
import queue
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from pathlib import Path

from mmig.doctor.findings import Finding

SECONDS = 5.0
"""Longest answer of the hub and of SLURM's controller."""
FETCH = "python -m mmig.backbones fetch --config FILE"


def slurm() -> Finding:
    """Whether jobs can be submitted here, or this is one, and what it has."""
    submit, job = shutil.which("sbatch"), os.environ.get("SLURM_JOB_ID")
    if submit is None and job is None:
        return Finding("slurm", "no sbatch on the PATH, trainings run here; on a login node: module load slurm")
    version = _answer([submit, "--version"]) if submit else None
    found = f"{version or 'sbatch is not on the PATH'}, {_job(job)}"
    if job is not None:
        return Finding("slurm", found)
    controller = _answer(["scontrol", "ping"])
    if controller is None or "UP" not in controller:
        told = "its controller does not answer" if controller is None else controller
        return Finding("slurm", f"{found}; {told}", "warning", "jobs cannot be submitted now; ask whoever runs it")
    return Finding("slurm", f"{found}; submit with sbatch slurm/stage1.sh, all stages with slurm/chain.sh")


def _job(job: str | None) -> str:
    if job is None:
        return "not inside a job"
    nodes, tasks = os.environ.get("SLURM_JOB_NUM_NODES", "1"), os.environ.get("SLURM_NTASKS", "1")
    gpus = os.environ.get("SLURM_GPUS_ON_NODE")
    devices = f", {gpus} GPUs a node" if gpus else ""
    begun = "" if "SLURM_PROCID" in os.environ else "; start its tasks with srun"
    return f"inside job {job} of {nodes} node(s) and {tasks} task(s){devices}{begun}"


def _answer(command: list[str]) -> str | None:
    """What a program says, in one line; None where it is not there, fails, or says nothing in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return " ".join(done.stdout.split()) if done.returncode == 0 and done.stdout.strip() else None


def hub() -> Finding:
    """Whether published backbones can be downloaded now, and what its cache holds."""
    try:
        from huggingface_hub import constants, get_token
    except ImportError as error:
        return Finding("hub", f"huggingface_hub cannot be imported ({error})", "wrong", "mend the packages")
    cache = Path(constants.HF_HUB_CACHE)
    models = len([folder for folder in cache.glob("models--*/snapshots") if folder.is_dir()])
    kept = f"the cache {cache} holds {models} models"
    if constants.HF_HUB_OFFLINE:
        advice = f"where there is a network: HF_HUB_OFFLINE=0 {FETCH}" if not models else ""
        return Finding("hub", f"offline, as HF_HUB_OFFLINE says; {kept}", "ok", advice)
    token = "a token is there" if get_token() else "no token, which gated models ask for (hf auth login)"
    problem = unreachable(constants.ENDPOINT)
    if problem is None:
        return Finding("hub", f"{constants.ENDPOINT} answers; {kept}; {token}")
    advice = (
        f"behind a proxy set HTTPS_PROXY; fetch elsewhere ({FETCH}) and set HF_HUB_OFFLINE=1, so that jobs do not wait"
    )
    return Finding("hub", f"{constants.ENDPOINT} cannot be reached ({problem}); {kept}", "warning", advice)


def unreachable(address: str, seconds: float = SECONDS) -> str | None:
    """Why an address gives no answer; None where it gives any, an error of the server's own among them.

    It is asked in a thread of its own, for looking a name up may take longer than any time limit of a request.
    """
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    threading.Thread(target=lambda: answers.put(_problem(address, seconds)), daemon=True).start()
    try:
        return answers.get(timeout=seconds + 1)
    except queue.Empty:
        return f"no answer in {seconds:g} s"


def _problem(address: str, seconds: float) -> str | None:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds):
            return None
    except urllib.error.HTTPError:
        return None
    except (OSError, ValueError) as error:  # URLError is an OSError; the latter is an address that is none
        return str(getattr(error, "reason", error))
