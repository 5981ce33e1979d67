"""slurm/train.sh: a method that is not MMIG as jobs of a real SLURM."""

import re
from pathlib import Path

import pytest
import torch

from tests.integration.losses import logged
from tests.slurm.cluster import Cluster, until
from tests.slurm.site import STEPS, Site

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def arguments(site: Site) -> tuple[str, ...]:
    """Arguments of train.py: a small InstructPix2Pix, and its data in a file of its own."""
    method = site.stage(1) | {
        "model": {
            "class_path": "mmig.methods.instruct_pix2pix.module.InstructPix2PixModule",
            "init_args": {
                "optimizer": {"lr": 1e-3},
                "loss_weights": {"sdm": 1.0},
                "backbone": str(site.folder / "stable-diffusion"),
                "unet": str(site.folder / "instruct-pix2pix"),
            },
        }
    }
    files = (site.write("method", method), site.folder / "configs" / "data.yaml")
    return tuple(word for file in files for word in ("--config", str(file)))


def test_any_method_is_signalled_requeued_and_resumed_on_two_nodes(
    site: Site, cluster: Cluster, arguments: tuple[str, ...]
) -> None:
    settings = {name: value for name, value in site.settings("any-").items() if name != "MMIG_DATA"}
    whole = site.submit("train.sh", "--nodes=2", settings=settings, arguments=("whole", *arguments))
    cluster.wait(whole, "COMPLETED")
    assert (
        cluster.log(whole)
        .splitlines()[-1]
        .endswith(f"{site.runs}/any-whole finished, newest checkpoint at step 6, 0 min old")
    )

    signs, hold = site.hold(step=3)
    more = ("--config", hold)
    job = site.submit("train.sh", "--nodes=2", settings=settings, arguments=("broken", *arguments, *more))
    until(lambda: len(list(Path(signs).glob("holding-*"))) == 2, "2 ranks at the step")
    cluster.run("scancel", "--signal=USR1", job)
    assert cluster.wait(job, "COMPLETED")["Restarts"] == "1", cluster.log(job)
    assert re.search(r"END job \d+, attempt 1, .* interrupted, newest checkpoint at step", cluster.log(job))
    first, second = (logged(site.runs / f"any-{name}") for name in ("whole", "broken"))
    assert first == second and len(first) == STEPS
    expected = site.weights("any-whole")
    assert all(torch.equal(value, expected[name]) for name, value in site.weights("any-broken").items())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no NAME of the run given"),
        (("one",), "no --config FILE given"),
        (("a/b", "--config", "x"), "NAME: expected"),
    ],
)
def test_what_is_missing_ends_the_job_in_one_line(
    site: Site, cluster: Cluster, words: tuple[str, ...], message: str
) -> None:
    job = site.submit("train.sh", "--nodes=1", settings=site.settings("usage-"), arguments=words)
    assert cluster.wait(job, "FAILED")["ExitCode"] == "2:0"
    (line,) = cluster.log(job).splitlines()
    assert line.startswith(f"error: {message}")
    assert not list(site.runs.glob("usage-*"))
