"""Jobs of a real SLURM that are interrupted in every way end as if nothing had happened."""

import re
from pathlib import Path

import pytest
import torch

from tests.integration.losses import logged
from tests.slurm.cluster import Cluster, until
from tests.slurm.site import STEPS, Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
TWO_NODES = "--nodes=2"


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> dict[int, str]:
    """Runs of one node and of two that nothing interrupts."""
    names = {1: "one", 2: "two"}
    jobs = [
        site.submit("stage1.sh", f"--nodes={nodes}", settings=site.settings(f"{name}-"))
        for nodes, name in names.items()
    ]
    for job in jobs:
        site.cluster.wait(job, "COMPLETED")
    return {nodes: f"{name}-stage1" for nodes, name in names.items()}


def ends_as_if_nothing_had_happened(site: Site, run: str, whole: str) -> None:
    assert logged(site.runs / run) == logged(site.runs / whole)
    assert len(logged(site.runs / run)) == STEPS
    expected = site.weights(whole)
    assert all(torch.equal(value, expected[name]) for name, value in site.weights(run).items())


def wait_until_held(signs: Path, ranks: int) -> None:
    until(lambda: len(list(signs.glob("holding-*"))) == ranks, f"{ranks} ranks at the step")


def first_line_of_attempt_2(log: str) -> str:
    return next(line for line in log.splitlines() if "BEGIN" in line and "attempt 2" in line)


def test_two_nodes_take_the_steps_of_one(site: Site, undisturbed: dict[int, str]) -> None:
    one, two = (logged(site.runs / undisturbed[nodes]) for nodes in (1, 2))
    assert len(two) == STEPS
    assert list(two.values()) == pytest.approx(list(one.values()), rel=1e-5)


def test_the_log_begins_beats_and_ends(site: Site, undisturbed: dict[int, str]) -> None:
    run = site.runs / undisturbed[2]
    lines = next(text for path in site.folder.glob("logs/*.log") if str(run) in (text := path.read_text())).splitlines()
    assert "BEGIN job" in lines[0] and "node[0-1]" in lines[0]
    assert any("heartbeat: job" in line for line in lines)
    assert lines[-1].endswith(f"{run} finished, newest checkpoint at step {STEPS}, 0 min old")


@pytest.mark.parametrize(("sent", "nodes"), [("USR1", 2), ("TERM", 1)])
def test_a_signalled_job_is_requeued_and_continues(
    site: Site, cluster: Cluster, undisturbed: dict[int, str], sent: str, nodes: int
) -> None:
    signs, hold = site.hold(step=3)
    job = site.submit("stage1.sh", f"--nodes={nodes}", settings=site.settings(f"{sent}-", hold))
    wait_until_held(signs, nodes)
    cluster.run("scancel", f"--signal={sent}", job)
    assert cluster.wait(job, "COMPLETED")["Restarts"] == "1", cluster.log(job)
    agreed_late = nodes - 1  # several ranks know of it one step later
    assert f"newest checkpoint at step {4 + agreed_late}" in first_line_of_attempt_2(cluster.log(job))
    assert re.search(r"END job \d+, attempt 1, .* interrupted, newest checkpoint at step", cluster.log(job))
    ends_as_if_nothing_had_happened(site, f"{sent}-stage1", undisturbed[nodes])


def test_the_warning_before_the_time_limit_requeues_from_a_container_too(
    site: Site, cluster: Cluster, undisturbed: dict[int, str]
) -> None:
    """SLURM looks at limits every half minute, so the warning comes some time from 30 s on, in a step or before."""
    _, hold = site.hold(step=3)
    settings = site.settings("limit-", hold) | {"MMIG_PYTHON": site.python_without_scontrol()}
    job = site.submit("stage1.sh", "--nodes=1", "--time=2", "--signal=SIGUSR1@60", settings=settings)
    until(lambda: cluster.facts(job)["Restarts"] == "1", "the job is requeued")
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")  # time enough this time, on a busy machine too
    cluster.wait(job, "COMPLETED")
    assert f"requeueing job {job} from its batch script" in cluster.log(job)
    ends_as_if_nothing_had_happened(site, "limit-stage1", undisturbed[1])


def test_a_job_is_requeued_when_a_node_dies(site: Site, cluster: Cluster, undisturbed: dict[int, str]) -> None:
    signs, hold = site.hold(step=5)
    job = site.submit("stage1.sh", TWO_NODES, settings=site.settings("dead-", hold))
    wait_until_held(signs, 2)
    cluster.kill_node("node1")
    until(lambda: cluster.facts(job)["Restarts"] == "1", "the job is requeued")
    cluster.start_node("node1")
    cluster.wait(job, "COMPLETED")
    assert "newest checkpoint at step 4" in first_line_of_attempt_2(cluster.log(job))
    ends_as_if_nothing_had_happened(site, "dead-stage1", undisturbed[2])


def test_a_cancelled_job_stays_cancelled(site: Site, cluster: Cluster) -> None:
    signs, hold = site.hold(step=3)
    job = site.submit("stage1.sh", "--nodes=1", settings=site.settings("cancelled-", hold))
    wait_until_held(signs, 1)
    cluster.run("scancel", job)
    assert cluster.wait(job, "CANCELLED")["Restarts"] == "0"
    assert not (site.runs / "cancelled-stage1" / "finished.json").exists()
