"""Three real ranks with uneven data find the means that one process finds."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from datamodules.schema import take
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.dino_encoder import load_dino
from mmig.metrics.lpips import load_lpips
from mmig.metrics.suite import MetricSuite, computable
from mmig.metrics.tools import NEEDS
from tests.mmig.metrics.support import EvenJudge, random_batch, random_images, with_references
from tests.tiny_vision import build_dino, build_lpips_backbone

NAMES = computable(NEEDS.keys() - {"features"})
SHARES = (slice(0, 5), slice(5, 7), slice(7, 8))


def means(share: slice, encoder: ClipEncoder, folder: Path) -> dict[str, float]:
    """Of every metric of samples over a share of eight samples, in batches of two."""
    lpips = load_lpips("squeeze", folder / "squeeze.pth")
    suite = MetricSuite(NAMES, encoder, EvenJudge(), dino=load_dino(str(folder / "dino")), lpips=lpips)
    batch, edited = (
        with_references(random_batch(8), [["subject"], [], ["base", "style"], ["style"] * 3] * 2),
        random_images(8),
    )
    written = [f"a red ball and {row}" for row in range(8)]
    for start in range(share.start, share.stop, 2):
        rows = slice(start, min(start + 2, share.stop))
        texts = dict.fromkeys(("response", "caption"), written[rows])
        suite.update(suite.bank(take(batch, rows), edited[rows], texts))
    return suite.compute()


def _rank(rank: int, folder: str, *given: Any) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=len(SHARES))
    torch.save(means(SHARES[rank], *given), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def test_three_ranks_with_uneven_data_find_what_one_finds(encoder: ClipEncoder, tmp_path: Path) -> None:
    build_dino(tmp_path / "dino")
    build_lpips_backbone(tmp_path / "squeeze.pth", "squeezenet1_1")
    alone = means(slice(0, 8), encoder, tmp_path)
    mp.start_processes(_rank, (str(tmp_path), encoder, tmp_path), nprocs=len(SHARES), start_method="fork")
    for rank in range(len(SHARES)):
        found = torch.load(tmp_path / f"rank{rank}.pt", weights_only=True)
        assert found.keys() == alone.keys()
        assert found == pytest.approx(alone, rel=1e-5, abs=2e-6, nan_ok=True)
