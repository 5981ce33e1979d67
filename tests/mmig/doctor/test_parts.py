"""What the doctor says of parts of machines that this one is not."""

import http.server
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmig.doctor import devices, libraries, machine, surroundings
from mmig.doctor.findings import Finding

GPU = {"name": "NVIDIA A100", "capability": "8.0", "memory": 80 * 2**30, "free": 79 * 2**30, "problem": ""}


def program(folder: Path, name: str, says: str, status: int = 0) -> None:
    """A program that says something and ends."""
    (folder / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {status}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that the PATH begins with; no job, nothing hidden."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin:/usr/bin")
    for name in [name for name in os.environ if name.startswith("SLURM_")] + ["CUDA_VISIBLE_DEVICES"]:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def versions(torch: str, torchvision: str) -> dict[str, Any]:
    return {"torch": {"version": torch, "cuda": None}, "torchvision": {"version": torchvision}}


def test_a_torch_of_another_pair_is_named() -> None:
    found = libraries.torch_pair(versions("1.0.0", "0.29.0"))
    assert found.state == "wrong"
    assert f"which is made for torch {libraries.asked_torch()}" in found.found
    assert "pip install --force-reinstall torch==" in found.advice


@pytest.mark.parametrize(("asked", "fits"), [("==2.11.0", True), (">=2.14.0", False), ("<2.12,>=2.11", True)])
def test_metadata_of_older_and_newer_torchvisions_are_understood(
    monkeypatch: pytest.MonkeyPatch, asked: str, fits: bool
) -> None:
    monkeypatch.setattr(libraries.importlib.metadata, "requires", lambda _: ["numpy", f"torch ({asked})"])
    assert libraries.asked_torch() == asked
    assert (libraries.torch_pair(versions("2.11.0", "0.26.0")).state == "ok") == fits


def test_builds_of_two_indexes_are_named() -> None:
    there = libraries.installed("torch").partition("+")[0]
    found = libraries.torch_pair(versions(f"{there}+cpu", "0.29.0+cu132"))
    assert found.state == "warning" and "cpu and cu132" in found.found
    assert libraries.torch_pair(versions(f"{there}+cpu", "0.29.0+cpu")).state == "ok"


def test_a_gpu_that_computes_is_fine_and_one_that_does_not_is_wrong(programs: Path) -> None:
    program(programs, "nvidia-smi", "NVIDIA A100, 570.1")
    answers = {"available": True, "devices": [GPU], "built_for": ["sm_80"]}
    found = devices.cuda({"torch": {"cuda": "13.2"}, "cuda": answers})
    assert found.state == "ok" and "NVIDIA A100 (capability 8.0" in found.found and "driver 570.1" in found.found
    broken = {**answers, "devices": [{**GPU, "problem": "no kernel image is available"}]}
    found = devices.cuda({"torch": {"cuda": "13.2"}, "cuda": broken})
    assert found.state == "wrong" and "cuda:0 does not compute" in found.found and "sm_80" in found.advice


@pytest.mark.parametrize(
    ("build", "hidden", "says"),
    [
        (None, None, "this torch is built without CUDA"),
        ("13.2", None, "torch cannot use it (the driver is too old)"),
        ("13.2", "", "CUDA_VISIBLE_DEVICES='' hides them"),
    ],
)
def test_a_gpu_that_torch_does_not_see_is_a_warning(
    programs: Path, monkeypatch: pytest.MonkeyPatch, build: str | None, hidden: str | None, says: str
) -> None:
    program(programs, "nvidia-smi", "NVIDIA A100, 570.1")
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    facts = {"torch": {"cuda": build}, "cuda": {"available": False, "why": "the driver is too old"}}
    found = devices.cuda(facts)
    assert found.state == "warning" and says in found.found and found.advice


def test_no_gpu_is_no_fault(programs: Path) -> None:
    program(programs, "nvidia-smi", "No devices were found", status=6)
    assert devices.cuda({"cuda": {"available": False, "why": ""}}).state == "ok"


def test_gloo_that_makes_no_group_says_what_to_set() -> None:
    answers = {"available": True, "nccl": None, "problems": {"gloo": "RuntimeError: unable to resolve hostname"}}
    found = devices.ranks({"ranks": answers})
    assert found.state == "warning" and "GLOO_SOCKET_IFNAME" in found.advice


def test_slurm_on_a_login_node(programs: Path) -> None:
    program(programs, "sbatch", "slurm 24.11.5")
    program(programs, "scontrol", "Slurmctld(primary) at head is UP")
    found = surroundings.slurm()
    assert found.state == "ok"
    assert "slurm 24.11.5, not inside a job" in found.found and "sbatch slurm/stage1.sh" in found.found


def test_a_controller_that_is_down_is_a_warning(programs: Path) -> None:
    program(programs, "sbatch", "slurm 24.11.5")
    program(programs, "scontrol", "Slurmctld(primary) at head is DOWN", status=1)
    assert "does not answer" in surroundings.slurm().found
    assert surroundings.slurm().state == "warning"


def test_inside_a_job_it_says_what_the_job_has(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(programs, "sbatch", "slurm 24.11.5")
    for name, value in {"JOB_ID": "17", "JOB_NUM_NODES": "2", "NTASKS": "8", "GPUS_ON_NODE": "4"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert "inside job 17 of 2 node(s) and 8 task(s), 4 GPUs a node; start its tasks with srun" in (
        surroundings.slurm().found
    )


def test_without_slurm_nothing_is_wrong(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(programs))
    assert surroundings.slurm().state == "ok"


class NotFound(http.server.BaseHTTPRequestHandler):
    """Answers, if only with an error."""

    def do_HEAD(self) -> None:
        self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.HTTPServer(("127.0.0.1", 0), NotFound) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_hub_that_answers_anything_can_be_reached(server: str) -> None:
    assert surroundings.unreachable(server) is None


def test_a_hub_that_refuses_or_never_answers_cannot() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        assert "refused" in surroundings.unreachable(address)
        listening.listen()
        assert "timed out" in surroundings.unreachable(address, seconds=0.2)


def test_the_hub_is_asked_unless_it_is_switched_off(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    assert "offline" in surroundings.hub().found  # as all tests are
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server)
    assert f"{server} answers" in surroundings.hub().found
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    found = surroundings.hub()
    assert found.state == "warning" and "mmig.backbones fetch" in found.advice


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The control groups of a container with half a core and 2 GiB, of which 1.5 are taken, 0.25 by files."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2 * 2**30}\n")
    (tmp_path / "memory.current").write_text(f"{3 * 2**29}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {2**28}\n")
    return tmp_path


def test_the_limits_of_a_container_count(container: Path) -> None:
    assert machine.usable_cores() == 0.5
    assert machine.cgroup_limit() == 3 * 2**28
    found = machine.memory()
    assert found.state == "wrong" and found.found.startswith("0.8 GiB free") and "container" in found.found
    crowded = machine.threads({"cpu": {"threads": 2}})
    assert crowded.state == "warning" and crowded.advice.endswith("export OMP_NUM_THREADS=1")


def test_threads_that_leave_cores_idle_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 16.0)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert machine.threads({"cpu": {"threads": 1}}).state == "warning"
    assert machine.threads({"cpu": {"threads": 16}}).state == "ok"


def test_a_folder_that_cannot_be_written_into_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.is_writable(tmp_path) and list(tmp_path.iterdir()) == []
    monkeypatch.chdir("/proc")  # nobody can, not even root
    found = {finding.found: finding for finding in machine.disks()}
    locked = next(finding for text, finding in found.items() if text.startswith("cannot write into runs"))
    assert locked.state == "wrong"


def test_free_space_is_that_of_the_nearest_folder_that_is_there(tmp_path: Path) -> None:
    assert machine.existing(tmp_path / "not" / "yet") == tmp_path.resolve()


def test_small_shared_memory_says_what_a_container_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHARED", tmp_path / "none")
    assert machine.shared_memory() is None
    monkeypatch.setattr(machine, "SHARED", tmp_path)
    monkeypatch.setattr(machine, "SHARED_MEMORY", 1e9)
    found = machine.shared_memory()
    assert isinstance(found, Finding) and found.state == "warning" and "--shm-size" in found.advice
