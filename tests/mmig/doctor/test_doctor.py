"""`python -m mmig.doctor` on this machine, and where torch or torchvision is broken."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mmig.doctor.findings import Finding, worst
from mmig.doctor.probe import QUESTIONS, probe
from tests import warm

NAMES = ["python", "packages", "torch", "cpu", "precision", "threads", "memory", "cuda", "nccl", "slurm", "hub", "disk"]


def doctor(
    *options: str, cwd: Path, interpreter: str = sys.executable, **environment: str
) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[3]
    paths = os.pathsep.join([*environment.pop("PYTHONPATH", "").split(), str(root)])
    variables = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths, **environment}
    command = [interpreter, "-m", "mmig.doctor", *options]
    return subprocess.run(command, cwd=cwd, env=variables, capture_output=True, text=True, check=False, timeout=300)


def stand_in(folder: Path, package: str, code: str) -> str:
    """A folder for PYTHONPATH in which a package is another one."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text(code)
    return str(folder)


def by_name(result: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    return {finding["name"]: finding for finding in json.loads(result.stdout)["findings"]}


def test_it_looks_at_everything_and_says_it_as_json(tmp_path: Path) -> None:
    result = doctor("--json", cwd=tmp_path, interpreter=warm.python())
    content = json.loads(result.stdout)
    names = [finding["name"] for finding in content["findings"] if finding["name"] != "shared"]
    assert [*dict.fromkeys(names)] == NAMES
    assert result.returncode == (content["state"] == "wrong")
    found = by_name(result)
    assert all(found[name]["state"] == "ok" for name in ("python", "packages", "torch"))
    assert re.search(r"auto is (32-true|bf16-mixed)", found["precision"]["found"])
    assert "a group of one rank was made with gloo" in found["nccl"]["found"] or "NCCL" in found["nccl"]["found"]
    assert all(finding["advice"] for finding in content["findings"] if finding["state"] != "ok")
    assert str(tmp_path) in found["disk"]["found"]
    assert list(tmp_path.iterdir()) == []  # nothing stays behind


def test_a_broken_torchvision_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    code = 'raise RuntimeError("operator torchvision::nms does not exist")'
    broken = stand_in(tmp_path, "torchvision", code)
    result = doctor(cwd=tmp_path, PYTHONPATH=broken)
    line = next(line for line in result.stdout.splitlines() if line.startswith("WRONG  torch "))
    assert result.returncode == 1
    assert "torchvision cannot be imported" in line
    assert "operator torchvision::nms does not exist" in line
    assert re.search(r"pip install --force-reinstall torch==\S+ torchvision==\S+$", line)
    assert [line.split()[1] for line in result.stdout.splitlines()][:3] == NAMES[:3]  # one line each


def test_without_torch_it_says_so_and_goes_on(tmp_path: Path) -> None:
    broken = stand_in(tmp_path, "torch", 'raise ImportError("libcudart.so.13: cannot open shared object file")')
    result = doctor("--json", cwd=tmp_path, PYTHONPATH=broken)
    found = by_name(result)
    assert result.returncode == 1 and result.stderr == ""
    assert "torch cannot be imported" in found["torch"]["found"] and "libcudart" in found["torch"]["found"]
    assert found["precision"]["state"] == "wrong"
    assert {"memory", "slurm", "hub", "disk"} <= found.keys()


def test_a_torch_that_kills_its_process_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)"
    monkeypatch.setenv("PYTHONPATH", f"{stand_in(tmp_path, 'torch', code)}{os.pathsep}{Path(__file__).parents[3]}")
    assert signal.SIGILL.name in probe()["torch"]["error"]


def test_a_torch_that_never_answers_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import signal\nsignal.pause()"
    monkeypatch.setenv("PYTHONPATH", f"{stand_in(tmp_path, 'torch', code)}{os.pathsep}{Path(__file__).parents[3]}")
    assert probe(seconds=3)["torch"]["error"].startswith("no answer in 3 s")


def test_every_question_has_an_answer_here() -> None:
    answers = {name: question() for name, question in QUESTIONS.items() if name != "ranks"}  # no group in this process
    assert answers["torch"]["version"] and answers["torchvision"]["version"]
    assert answers["cpu"]["threads"] >= 1
    assert answers["precision"]["cpu"] in ("32-true", "bf16-mixed")


def test_the_worst_finding_counts() -> None:
    fine, look, wrong = Finding("a", "b"), Finding("a", "b", "warning", "c"), Finding("a", "b", "wrong", "c")
    assert worst([]) == worst([fine]) == "ok"
    assert worst([fine, look]) == "warning"
    assert worst([wrong, look, fine]) == "wrong"
    assert "\n" not in str(Finding("a", "two\nlines", "wrong", "do\nthis"))
