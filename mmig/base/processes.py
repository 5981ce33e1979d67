"""Processes of this host, told apart although their numbers are given again."""

from pathlib import Path


def process_start(pid: int) -> str | None:
    """When a process of this host started, the same as long as it lives: "BOOT/TICKS" from /proc.

    None where there is no such process, only what is left of a dead one (a zombie), or no /proc.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name before may hold anything
    except OSError:
        return None
    return None if status[0] in "ZX" else f"{boot}/{status[19]}"
