"""bench/scaling.py: volumes by hand, monotone efficiency, and two real ranks send what the formulas say."""

from __future__ import annotations

import io
from contextlib import redirect_stdout

import pytest

from bench.scaling import Cluster, Share, all_reduce, ddp_bytes, fsdp_bytes, main, replica_bytes, shares
from bench.stages.build import STAGES, build_stage
from bench.stages.sizes import PUBLISHED

CLUSTER = Cluster(within=100.0, between=10.0, overlap=0.5, width=2)
PARTS = [Share(100, 5), Share(20, 2)]


def test_volumes_are_those_of_a_ring() -> None:
    assert all_reduce(80, 2) == 80 and all_reduce(80, 4) == 120 and all_reduce(80, 1) == 0
    assert ddp_bytes(PARTS, 4) == 2 * 3 / 4 * 4 * 120
    assert fsdp_bytes(PARTS, 4, width=2) == 3 / 4 * (100 * (2 * 5 + 4) + 20 * (2 * 2 + 4))
    assert replica_bytes(PARTS, 1) == 0 and replica_bytes(PARTS, 2) == 4 * 120 / 8


def test_across_nodes_the_link_of_a_node_decides() -> None:
    size, seconds = CLUSTER.seconds("DDP", PARTS, 1)
    assert seconds == size / 100
    size, seconds = CLUSTER.seconds("DDP", PARTS, 2)
    assert seconds == size / 10
    inside, across = fsdp_bytes(PARTS, 8, 2), replica_bytes(PARTS, 4)
    assert CLUSTER.seconds("HSDP", PARTS, 4) == (inside + across, inside / 100 + 8 * across / 10)


def test_what_does_not_hide_behind_compute_costs_efficiency() -> None:
    assert CLUSTER.efficiency(1.0, 0.5) == 1.0 and CLUSTER.efficiency(1.0, 1.5) == 0.5


def test_shares_are_all_trained_parameters_and_the_denoiser_has_five_passes() -> None:
    found = shares(build_stage(STAGES[5], PUBLISHED, "meta"))
    assert sum(share.parameters for share in found) == 989_132_916
    assert {share.passes for share in found} == {2, 5}
    assert shares(build_stage(STAGES[1], PUBLISHED, "meta")) == [Share(18_699_776, 2)]


@pytest.fixture(scope="module")
def printed() -> str:
    """What the script says of stage 1."""
    with redirect_stdout(io.StringIO()) as out:
        main(["--stages", "1", "--between", "50"])
    return out.getvalue()


def test_two_ranks_send_what_the_formulas_say(printed: str) -> None:
    ratios = {line.split()[0]: float(line.split()[2]) for line in printed.splitlines() if " ratio " in line}
    assert ratios == {
        "scaling/ddp_volume": pytest.approx(1, abs=0.02),
        "scaling/fsdp2_volume": pytest.approx(1, abs=0.02),
    }


def test_the_table_has_a_line_for_each_strategy_and_formula_and_assumptions_are_printed(printed: str) -> None:
    assert "50 GB/s a node" in printed and "2 (n-1)/n 4P" in printed
    rows = [line.split()[1] for line in printed.splitlines() if line.split()[:1] == ["1"]]
    assert rows == ["DDP", "FSDP2", "HSDP"]
