"""GPUs and the groups that ranks make: what torch can do with them, beside what the driver says is there."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

from mmig.doctor.findings import Finding

GIB = 2**30
SECONDS = 20.0
"""Longest answer of nvidia-smi, which takes long on a node whose driver has to wake."""
NOT_NEEDED = "trainings run on the processor"


def cuda(facts: Mapping[str, Any]) -> Finding:
    """GPUs, whether torch can use them, and what stands in the way where it cannot."""
    driver = ask_driver()
    answers, build = facts.get("cuda"), facts.get("torch", {}).get("cuda")
    if answers is None or "error" in answers:
        why = (answers or {}).get("error", "torch did not get so far")
        return Finding("cuda", f"cannot be told ({why})", "warning" if driver else "ok", "mend what is wrong above")
    if not answers["available"]:
        return _without(driver, build, answers["why"])
    described, problems = [], []
    for number, device in enumerate(answers["devices"]):
        sizes = f"{device['free'] / GIB:.0f} of {device['memory'] / GIB:.0f} GiB free"
        described.append(f"{device['name']} (capability {device['capability']}, {sizes})")
        if device["problem"]:
            problems.append(f"cuda:{number} does not compute ({device['problem']})")
    version = f", driver {driver[0].version}" if driver else ""
    found = f"{', '.join(described)}, CUDA {build}{version}"
    if not problems:
        return Finding("cuda", found)
    built = " ".join(answers["built_for"])
    advice = f"this torch is built for {built}: install one for this GPU, or hide it with CUDA_VISIBLE_DEVICES"
    return Finding("cuda", f"{found}: {'; '.join(problems)}", "wrong", advice)


def _without(driver: Sequence["Driver"], build: str | None, why: str) -> Finding:
    """No GPU that torch sees: because there is none, or one is hidden, or this torch or driver cannot."""
    if not driver:
        return Finding("cuda", f"no NVIDIA GPU is found, {NOT_NEEDED}")
    there = f"the driver {driver[0].version} has {len(driver)} GPU{'s' * (len(driver) > 1)} ({driver[0].name})"
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        return Finding(
            "cuda", f"{there}, CUDA_VISIBLE_DEVICES={hidden!r} hides them", "warning", "unset it to use them"
        )
    if build is None:
        advice = "install a torch that is built for CUDA, with torchvision in the same command"
        return Finding("cuda", f"{there}, this torch is built without CUDA", "warning", advice)
    advice = f"a driver that is too old for CUDA {build} must be renewed, or a torch for an older CUDA installed"
    return Finding("cuda", f"{there}, torch cannot use it ({why or 'no reason given'})", "warning", advice)


class Driver:
    """A GPU as nvidia-smi knows it: its name, and the version of the driver."""

    def __init__(self, line: str) -> None:
        self.name, _, self.version = (part.strip() for part in line.rpartition(","))


def ask_driver() -> list[Driver]:
    """GPUs that nvidia-smi lists; none where there is no such program, or it does not answer."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [Driver(line) for line in done.stdout.splitlines() if "," in line] if done.returncode == 0 else []


def ranks(facts: Mapping[str, Any]) -> Finding:
    """Groups of ranks: gloo, by which ranks agree and CPUs train together, and NCCL between GPUs."""
    answers = facts.get("ranks")
    if answers is None or "error" in answers:
        why = (answers or {}).get("error", "torch did not get so far")
        return Finding("nccl", f"cannot be told ({why})", "warning", "mend what is wrong above")
    if not answers["available"]:
        return Finding("nccl", "this torch has no torch.distributed", "warning", "train with one process alone")
    version = answers["nccl"]
    found = f"NCCL {version}" if version else "no NCCL, gloo"
    problems: dict[str, str] = answers["problems"]
    if "gloo" in problems:
        advice = "the host's name must lead to an address of it (/etc/hosts), or set GLOO_SOCKET_IFNAME, as to lo"
        return Finding("nccl", f"{found}; gloo makes no group ({problems['gloo']})", "warning", advice)
    if "nccl" in problems:
        advice = "export NCCL_DEBUG=INFO says more; with one GPU train with --trainer.devices 1"
        return Finding("nccl", f"{found} makes no group ({problems['nccl']})", "warning", advice)
    has_gpu = facts.get("cuda", {}).get("available")
    tried = "groups of one rank were made with gloo and NCCL" if has_gpu else "a group of one rank was made with gloo"
    return Finding("nccl", f"{found}; {tried}{'' if has_gpu else ', NCCL waits for a GPU' if version else ''}")
