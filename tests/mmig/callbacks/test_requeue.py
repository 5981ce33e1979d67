"""What is asked of SLURM's controller, and what is told about it. On a real SLURM: tests/slurm."""

from pathlib import Path

import pytest

from mmig.callbacks.requeue import requeue_job


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A scontrol that writes down what it is asked; its answers are in the environment."""
    program = tmp_path / "scontrol"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n'
        'if [ "$1" = show ]; then echo "JobId=42 JobName=x"; echo "   JobState=$STATE Reason=None"; exit 0; fi\n'
        'echo "$REFUSAL" >&2; [ -z "$REFUSAL" ]\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setenv("STATE", "RUNNING")
    monkeypatch.setenv("REFUSAL", "")
    return tmp_path / "asked"


def test_a_running_job_is_requeued_once(asked: Path) -> None:
    assert requeue_job() == (True, "job 42 is requeued and continues from there")
    assert asked.read_text().splitlines() == ["show job 42", "requeue 42"]


def test_a_cancelled_job_is_not_revived(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE", "CANCELLED")
    assert requeue_job() == (False, "job 42 is CANCELLED and not requeued by itself")
    assert asked.read_text().splitlines() == ["show job 42"]


def test_a_refusal_is_told(asked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFUSAL", "Requested operation is presently disabled for job 42")
    done, text = requeue_job()
    assert not done
    assert "could not be requeued (Requested operation is presently disabled for job 42); submit it again" in text


def test_a_missing_scontrol_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    done, text = requeue_job()
    assert not done
    assert "scontrol" in text


def test_outside_of_slurm_the_same_command_continues(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert requeue_job() == (False, "the same command continues from there")
