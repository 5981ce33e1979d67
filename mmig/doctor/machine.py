"""Processor, threads, memory and disks: what this process may use of them, in containers and jobs too."""

import os
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmig.base.files import cache_folder
from mmig.doctor.findings import Finding, State

GIB = 2**30
TINY_MEMORY, SMALL_MEMORY = 1.0, 4.0
"""GiB without which nothing here can run, and below which more than one training of tiny parts cannot."""
TINY_DISK, SMALL_DISK, PUBLISHED_DISK = 1.0, 10.0, 100.0
"""GiB for a run of tiny parts and its data; for some of them; and for published backbones and runs of them (a LLaMA of
7 B in half precision, a BLIP-2, a Stable Diffusion, and some checkpoints of up to 35 GiB)."""
SHARED_MEMORY = 0.5
"""GiB of /dev/shm, through which loader workers hand batches on; containers have 0.06 unless told otherwise."""
CGROUP = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")


def processor(facts: Mapping[str, Any]) -> Finding:
    """Which processor, and what trainings compute in on it."""
    found = f"{processor_name()}, {usable_cores():g} of {os.cpu_count()} cores"
    answers = facts.get("cpu", {})
    if "capability" in answers:
        units = [name for name, key in (("AMX", "amx"), ("AVX512-BF16", "avx512_bf16")) if answers[key]]
        found += f", torch uses {', '.join([answers['capability'], *units])}"
    return Finding("cpu", found)


def precision(facts: Mapping[str, Any]) -> Finding:
    """What `trainer.precision: auto` stands for here."""
    answers = facts.get("precision")
    if answers is None or "error" in answers:
        why = (answers or {}).get("error", "torch did not get so far")
        return Finding(
            "precision", f"trainer.precision auto cannot be told ({why})", "wrong", "mend what is wrong above"
        )
    beside = "" if answers["auto"] == answers["cpu"] else f" (with trainer.accelerator cpu: {answers['cpu']})"
    return Finding("precision", f"trainer.precision auto is {answers['auto']}{beside}")


def threads(facts: Mapping[str, Any]) -> Finding:
    """How many threads compute, against the cores that this process may use."""
    given, cores = os.environ.get("OMP_NUM_THREADS"), usable_cores()
    count = facts.get("cpu", {}).get("threads")
    if count is None:
        return Finding("threads", f"OMP_NUM_THREADS {given or 'is not set'}")
    found = f"torch computes with {count} on {cores:g} cores (OMP_NUM_THREADS {given or 'is not set'})"
    if count > cores:
        advice = f"they take turns on the cores: export OMP_NUM_THREADS={max(1, int(cores))}"
        return Finding("threads", found, "warning", advice)
    if given is not None and count * 4 <= cores:
        return Finding("threads", found, "warning", "unset OMP_NUM_THREADS, if no other processes share the cores")
    return Finding("threads", found)


def memory() -> Finding:
    """What is free for this process: of the machine, and of its container or job."""
    total, free = machine_memory()
    limit = cgroup_limit()
    bounded = limit is not None and limit < total
    free = min(free, limit) if limit is not None else free
    found = f"{free / GIB:.1f} GiB free of {min(total, limit or total) / GIB:.1f}"
    found += " that this container or job may use" if bounded else ""
    if free < TINY_MEMORY * GIB:
        return Finding("memory", found, "wrong", f"a training of tiny parts needs {TINY_MEMORY:g} to 3: free some")
    if free < SMALL_MEMORY * GIB:
        return Finding("memory", found, "warning", "enough for one training of tiny parts at a time")
    return Finding("memory", found)


def shared_memory() -> Finding | None:
    """Room for the batches of loader workers; None where the system has no such folder."""
    if not SHARED.is_dir():
        return None
    free = shutil.disk_usage(SHARED).free / GIB
    found = f"{free:.2f} GiB free in {SHARED}"
    if free < SHARED_MEMORY:
        advice = "loader workers die of a bus error: start the container with --shm-size=8g, or train with "
        return Finding("shared", found, "warning", f"{advice}--data.init_args.num_workers 0")
    return Finding("shared", found)


def disks() -> list[Finding]:
    """Free space, one finding a file system, of the folders that programs write into."""
    together: dict[int, list[tuple[str, Path]]] = {}
    for name, path in _written().items():
        there = existing(path)
        together.setdefault(there.stat().st_dev, []).append((name, there))
    return [_disk(places) for places in together.values()]


def _written() -> dict[str, Path]:
    home = Path.home()
    hub = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME") or home / ".cache/huggingface") / "hub"
    temporary = Path(tempfile.gettempdir())
    return {"runs": Path("runs"), "data": Path("data"), "caches": cache_folder(""), "hub": Path(hub), "tmp": temporary}


def _disk(places: Sequence[tuple[str, Path]]) -> Finding:
    names = ", ".join(f"{name} ({path})" for name, path in places)
    free = shutil.disk_usage(places[0][1]).free / GIB
    found = f"{free:,.1f} GiB free for {names}"
    if locked := [f"{name} ({path})" for name, path in places if not is_writable(path)]:
        state: State = "wrong" if any(name.startswith(("runs", "data", "tmp")) for name in locked) else "warning"
        how = "cd to a folder of yours, or give --runs, XDG_CACHE_HOME, HF_HOME, TMPDIR on a disk of yours"
        return Finding("disk", f"cannot write into {', '.join(locked)}", state, how)
    if free < TINY_DISK:
        return Finding("disk", found, "wrong", f"{TINY_DISK:g} GiB is the least for data and a run; free some")
    big = any(name in ("runs", "data", "hub") for name, _ in places)
    advice = (
        f"published backbones and their runs take about {PUBLISHED_DISK:g}" if big and free < PUBLISHED_DISK else ""
    )
    return Finding("disk", found, "warning" if advice and free < SMALL_DISK else "ok", advice)


def existing(path: Path) -> Path:
    """A folder, or the nearest one above it that is there, resolved."""
    whole = path.expanduser().resolve()
    return next(place for place in (whole, *whole.parents) if place.is_dir())


def is_writable(folder: Path) -> bool:
    """Whether a file can be made in a folder; a quota that is used up says no here, where permissions say yes."""
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".mmig-doctor-") as file:
            file.write(b"0" * 4096)
            file.flush()
    except OSError:
        return False
    return True


def usable_cores() -> float:
    """Cores that this process may use: its affinity, cut by the quota of its container."""
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for folder in _cgroups():
        words = _text(folder / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit():
            cores = min(cores, int(words[0]) / int(words[1]))
    return cores


def machine_memory() -> tuple[float, float]:
    """Bytes of the machine, and those of them that programs can have."""
    lines = [line.split() for line in _text(Path("/proc/meminfo")).splitlines()]
    sizes = {words[0].rstrip(":"): 1024.0 * int(words[1]) for words in lines if len(words) > 1}
    if "MemTotal" in sizes:
        return sizes["MemTotal"], sizes.get("MemAvailable", sizes["MemTotal"])
    total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    return total, total


def cgroup_limit() -> float | None:
    """Bytes that the container or job of this process has left; None where it has no limit, or none can be read."""
    rooms = []
    for folder in _cgroups():
        limit, used = _text(folder / "memory.max").strip(), _text(folder / "memory.current").strip()
        words = [line.split() for line in _text(folder / "memory.stat").splitlines()]
        files = next(
            (int(count) for name, count in words if name == "inactive_file"), 0
        )  # given back when it is needed
        if limit.isdigit() and used.isdigit():
            rooms.append(float(limit) - float(used) + files)
    return min(rooms, default=None)


def processor_name() -> str:
    """As the system calls it."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _cgroups() -> list[Path]:
    """Folders of the control groups of this process, version 2, from its own up to the root."""
    line = next((line for line in _text(Path("/proc/self/cgroup")).splitlines() if line.startswith("0::")), "")
    own = CGROUP / line.removeprefix("0::").strip().lstrip("/")
    return [folder for folder in (own, *own.parents) if folder.is_relative_to(CGROUP)]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
