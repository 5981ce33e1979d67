"""The run directory: who writes into it, and what was run.

`runs/NAME/` holds config.yaml, manifest.json, checkpoints/, the TensorBoard log, and finished.json once its last step
is done. It is the same folder for every submission of the run; each submission adds an entry to the manifest.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from mmig.base.files import write_json
from mmig.base.processes import process_start
from mmig.base.versions import describe_code

HEARTBEAT_SECONDS = 10.0
STALE_SECONDS = 60.0


class RunLockedError(RuntimeError):
    """Another process writes into the run directory.

    Attributes:
        job: of SLURM in which that process runs; None outside of one.
    """

    job: str | None = None


class RunFolderError(ValueError):
    """Nothing can be written into the run directory."""


def make_run_folder(run: Path) -> None:
    """Make the run directory, where it is not there yet.

    Raises:
        RunFolderError: it cannot be made, or not be written into.
    """
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"cannot make the folder of the run ({error}); give another with --runs") from error
    if not os.access(run, os.W_OK):
        raise RunFolderError(f"cannot write into {run}; make it writable, or give another folder with --runs")


def append_submission(run: Path, **facts: Any) -> None:
    """Add this submission to `manifest.json`: time, host, command, job, versions, commit and the given facts."""
    path = run / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"name": run.name, "submissions": []}
    manifest["submissions"].append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "command": sys.argv,
            "job": os.environ.get("SLURM_JOB_ID"),
            **describe_code(),
            **facts,
        }
    )
    write_json(path, manifest)


def check_name(name: str) -> None:
    """Refuse what is no name of a folder directly in that of all runs.

    Raises:
        RunFolderError: an empty name, a path, or the folder of all runs itself.
    """
    if not name.strip() or name in (".", "..") or "/" in name or os.sep in name or "\0" in name:
        raise RunFolderError(
            f"--name {name!r}: expected the name of one folder, which is made in that of --runs; give a word such as "
            "stage1, and another place with --runs"
        )


def mark_finished(run: Path, step: int, early: bool = False) -> None:
    """Leave `finished.json`: the run has come to its end, and what is built on it may start (slurm/chain.sh).

    Args:
        run: folder of the run. step: its last one.
        early: whether a callback or `trainer.max_time` ended it, which a resume would not know of.
    """
    facts = {"step": step, "time": datetime.now(UTC).isoformat(timespec="seconds"), "early": early}
    write_json(run / "finished.json", facts)


def ended_early(run: Path, config: dict[str, Any]) -> int | None:
    """The last step of a run that a callback ended, if the same command is given again; else None.

    Ranks may ask while the first one takes the mark away and writes its settings: in this order all get one answer.
    """
    try:
        saved = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        facts = json.loads((run / "finished.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    same = facts.get("early") and saved == config and any((run / "checkpoints").glob("step-*"))
    return facts["step"] if same else None


def unmark_finished(run: Path) -> None:
    """Take the mark away where a run is continued."""
    (run / "finished.json").unlink(missing_ok=True)


@contextlib.contextmanager
def run_lock(run: Path) -> Iterator[None]:
    """Hold the run directory for one writer; a heartbeat tells a live writer from one that was killed.

    Raises:
        RunLockedError: the lock's process is alive on this host, or it is another host's and its heartbeat is younger
            than a minute. On this host both must hold where the system does not tell when a process started. A job
            that was queued again waits until its own lock of before is that old.
    """
    path = run / "lock.json"
    _take(path)
    stop = threading.Event()
    thread = threading.Thread(target=_beat, args=(path, stop), daemon=True, name="run-lock")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    started = process_start(os.getpid())
    job = os.environ.get("SLURM_JOB_ID")
    content = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": started, "job": job})
    give_up = time.monotonic() + 2 * STALE_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            try:
                _remove_if_dead(path)
            except RunLockedError as error:
                # the node of this job's last attempt may have died a moment ago, or be alive and out of reach
                if job is None or error.job != job or time.monotonic() > give_up:
                    raise
                time.sleep(HEARTBEAT_SECONDS / 10)
            continue
        with os.fdopen(descriptor, "w") as file:
            file.write(content)
        return


def _remove_if_dead(path: Path) -> None:
    try:
        owner, age = json.loads(path.read_text() or "{}"), time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return
    if not _is_dead(owner, age):
        error = RunLockedError(
            f"{path.parent} is being written by process {owner.get('pid')} on {owner.get('host')} "
            f"(last sign {age:.0f} s ago); wait for it, or choose another --name"
        )
        error.job = owner.get("job")
        raise error
    path.unlink(missing_ok=True)


def _is_dead(owner: dict[str, Any], age: float) -> bool:
    """Whether nobody writes under a lock; a process's number alone does not tell, for numbers are given again."""
    if owner.get("host") != socket.gethostname():
        return age > STALE_SECONDS
    if owner.get("started") is not None:
        return process_start(owner["pid"]) != owner["started"]
    return age > STALE_SECONDS or not _exists(owner["pid"])


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with contextlib.suppress(OSError):  # a shared file system may fail for a moment; the next beat tells
            os.utime(path)
