"""The chain of five stages, the sweep and the evaluation as jobs of a real SLURM."""

import itertools
import json
import re
import shutil
import subprocess

import pytest

from mmig.checkpoints.checkpoint import read_checkpoint
from tests.slurm.cluster import ROOT, Cluster, until
from tests.slurm.site import Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]
FEW_STEPS = {"MMIG_OVERRIDES": "--trainer.max_steps 2"}


def chain(site: Site, settings: dict[str, str]) -> dict[int, str]:
    """Call chain.sh; what it says of each stage."""
    text = site.cluster.run("slurm/chain.sh", **settings)
    return {int(number): rest for number, rest in re.findall(r"^stage (\d)  (.*)$", text, re.MULTILINE)}


def job_in(line: str) -> str:
    return re.search(r"job (\d+)", line)[1]


def test_the_chain_goes_on_from_where_it_stands(site: Site, cluster: Cluster) -> None:
    settings = site.settings("chain-") | FEW_STEPS
    first = chain(site, settings)
    assert all(line.startswith("submitted: job") for line in first.values())
    jobs = {stage: job_in(line) for stage, line in first.items()}
    for stage in range(2, 6):
        assert first[stage].endswith(f"after job {jobs[stage - 1]}")

    cluster.wait(jobs[1], "COMPLETED")
    until(lambda: cluster.facts(jobs[2])["JobState"] == "RUNNING", "stage 2 runs")
    second = chain(site, settings)
    assert second[1].startswith("finished: ")
    for stage in range(2, 6):
        assert second[stage].startswith(f"already there: job {jobs[stage]}, ")

    cluster.wait(jobs[2], "COMPLETED")
    cluster.run("scancel", jobs[3])
    for stage in (4, 5):  # they wait for what will never be
        cluster.wait(jobs[stage], "CANCELLED")
    third = chain(site, settings)
    assert [third[stage].split(":")[0] for stage in range(1, 6)] == ["finished"] * 2 + ["submitted"] * 3
    for stage in (3, 4, 5):
        cluster.wait(job_in(third[stage]), "COMPLETED")

    fourth = chain(site, settings)
    assert all(line.startswith("finished: ") for line in fourth.values())
    stored = [set(read_checkpoint(site.runs / f"chain-stage{stage}")["state_dict"]) for stage in range(1, 6)]
    assert all(earlier <= later for earlier, later in itertools.pairwise(stored))


def test_stages_that_were_submitted_by_hand_are_known(site: Site, cluster: Cluster) -> None:
    settings = site.settings("") | FEW_STEPS
    job = site.submit("stage1.sh", "--nodes=1", "--hold", settings=settings)
    try:
        found = chain(site, settings)
        assert found[1] == f"already there: job {job}, PENDING, submitted by hand"
        assert found[2].endswith(f"after job {job}")
        with pytest.raises(
            AssertionError, match=rf"job {job} was submitted by hand.*scontrol update JobId={job} Comment="
        ):
            chain(site, site.settings("other-"))
        for number in range(2, 6):
            cluster.run("scancel", job_in(found[number]))
        cluster.run("scontrol", "release", job)
        cluster.wait(job, "COMPLETED")
        assert cluster.facts(job)["Comment"] == str(site.runs / "stage1")
    finally:
        cluster.run("scancel", "--me")


def test_a_backbone_that_is_not_there_ends_the_chain_in_one_line(site: Site, cluster: Cluster) -> None:
    settings = site.settings("broken-") | {
        "MMIG_OVERRIDES": "--model.init_args.backbones.llm nowhere/no-such-llama --trainer.max_steps 2"
    }
    jobs = {stage: job_in(line) for stage, line in chain(site, settings).items()}
    cluster.wait(jobs[1], "FAILED")
    for stage in range(2, 6):
        cluster.wait(jobs[stage], "CANCELLED")
    log = cluster.log(jobs[1])
    assert "Traceback" not in log
    assert len([line for line in log.splitlines() if "error: " in line and "no-such-llama" in line]) == 1, log
    assert "failed with status 1, no checkpoint yet; the reason stands above" in log.splitlines()[-1]


def test_a_sweep_trains_one_run_a_seed(site: Site, cluster: Cluster) -> None:
    job = site.submit("sweep.sh", "--array=3-4", "--nodes=1", settings=site.settings("sweep-") | FEW_STEPS)
    for seed in (3, 4):
        cluster.wait(f"{job}_{seed}", "COMPLETED")
    runs = [site.runs / f"sweep-stage1-seed{seed}" for seed in (3, 4)]
    assert [json.loads((run / "manifest.json").read_text())["submissions"][0]["seed"] for run in runs] == [3, 4]
    weights = [read_checkpoint(run)["state_dict"] for run in runs]
    assert any(not weights[0][name].equal(weights[1][name]) for name in weights[0])


def test_two_nodes_evaluate_together(site: Site, cluster: Cluster) -> None:
    """Of the first stage's run of the chain, which is there by now."""
    run = site.runs / "chain-stage1"
    arguments = ("--limit", "4", "--metrics", "l1_target")
    for nodes in (1, 2):
        settings = site.settings("chain-") | {"CHECKPOINT": str(run), "OUT": str(run / f"by-{nodes}")}
        job = site.submit("evaluate.sh", f"--nodes={nodes}", settings=settings, arguments=arguments)
        cluster.wait(job, "COMPLETED")
        assert cluster.log(job).splitlines()[-1].endswith(f"evaluated, results in {run}/by-{nodes}")
    one, two = (json.loads((run / f"by-{nodes}" / "metrics.json").read_text()) for nodes in (1, 2))
    assert one["metrics"]["l1_target"]["value"] == pytest.approx(two["metrics"]["l1_target"]["value"], rel=1e-5)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
def test_scripts_are_clean_for_shellcheck() -> None:
    scripts = sorted(str(path) for folder in ("slurm", "tests/slurm") for path in (ROOT / folder).glob("*.sh"))
    result = subprocess.run(
        ["shellcheck", "-x", *scripts, ".ci/run"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stdout == ""
