"""What the mutual support module is worth: held-out noise loss with it on, off, and on with other samples' text.

    python -m experiments.ablation --checkpoint runs/NAME --data configs/data/plain.yaml --split val

All variants see the same noise and timesteps, so their differences are paired by sample. If the module helped only
because it adds capacity, shuffled text states would help as much as the right ones.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from datamodules.schema import Batch, take
from mmig.base.batches import readable
from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.processor import share_cores
from mmig.checkpoints.checkpoint import load_module
from mmig.diffusion.losses import noise_loss
from mmig.evaluation.bootstrap import Interval, mean_interval, paired_difference
from mmig.evaluation.data import split_batches
from mmig.language.sequences import ResponseStates
from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.rng import Draws

Variant = Literal["on", "off", "shuffled"]
VARIANTS: tuple[Variant, ...] = ("on", "off", "shuffled")
ABLATION_SEED = 2_000_003
"""Added to the run's seed: noise that neither training nor validation has seen."""


@torch.no_grad()
def noise_losses(model: MMIG, batch: Batch, draws: Draws) -> dict[Variant, Tensor]:
    """L_SDM of each sample [B] with MMSM on, off, and on with the text states of the sample before it in the batch."""
    losses = Losses(model, batch, draws, ("sdm",))
    problem = losses.problem
    states = model.answer(batch).states
    shuffled = ResponseStates(states.states.roll(1, dims=0), states.mask.roll(1, dims=0))
    nobody = torch.zeros(len(batch["key"]), dtype=torch.bool, device=problem.noisy.device)
    everybody = losses.has_text
    settings = {"on": (states, everybody), "off": (states, nobody), "shuffled": (shuffled, everybody)}
    return {
        name: noise_loss(
            model.denoise(problem.noisy, problem.timesteps, problem.condition, text, active)[0], problem.target
        )
        for name, (text, active) in settings.items()
    }


def comparable(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The samples of a batch that have a target and a text of their own, and so a neighbour with one; none, if one.

    Where MMSM has no text it does nothing, so "on" or "shuffled" would be "off"; alone in a batch, a sample would be
    its own neighbour.
    """
    readable_batch = readable(batch)
    usable = readable_batch["has_target"] & readable_batch["has_response"]
    rows = usable.nonzero().flatten().tolist()
    return take(readable_batch, rows if len(rows) > 1 else [])


def compare_variants(
    stage: MMIGStage, data: Path, split: str, draws_per_sample: int, limit: int | None
) -> dict[str, Interval]:
    """Mean L_SDM of each variant and the paired differences "on - off" and "on - shuffled", with 95 % intervals.

    The unit of the bootstrap is the sample; each contributes its mean over `draws_per_sample` noises. Samples that
    cannot be compared (see `comparable`) count in no variant.

    Raises:
        ValueError: no sample can be compared.
    """
    losses: dict[Variant, dict[str, float]] = {name: {} for name in VARIANTS}
    for whole_batch in split_batches(data, split):
        batch = cast(Batch, comparable(whole_batch))
        if not batch["key"]:
            continue
        drawn = [
            noise_losses(stage.mmig, batch, Draws(stage.seed + ABLATION_SEED + number, batch["position"]))
            for number in range(draws_per_sample)
        ]
        for name in VARIANTS:
            means = torch.stack([values[name] for values in drawn]).mean(dim=0)
            losses[name].update(zip(batch["key"], means.tolist(), strict=True))
        if limit is not None and len(losses["on"]) >= limit:
            break
    if not losses["on"]:
        raise ValueError(
            f"{data}, split {split}: no batch holds two samples with target and response; give data with responses, or "
            "a larger data.init_args.eval_batch_size"
        )
    result = {name: mean_interval(list(losses[name].values())) for name in VARIANTS}
    result |= {f"on - {other}": paired_difference(losses["on"], losses[other]) for other in ("off", "shuffled")}
    return result


def table(result: dict[str, Interval], title: str) -> Table:
    """The comparison as a table."""
    shown = Table(title=title, title_justify="left")
    for column in ("MMSM", "L_SDM", "95 % interval", "n"):
        shown.add_column(column, justify="left" if column == "MMSM" else "right")
    for name, interval in result.items():
        digits = "+.5f" if " - " in name else ".5f"
        shown.add_row(name, f"{interval.value:{digits}}", interval.bounds(digits), str(interval.n))
    return shown


def main(arguments: list[str] | None = None) -> None:
    """Compare the variants of a run and print the table."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="run directory, or a .ckpt file in one")
    parser.add_argument("--data", required=True, help="YAML with a `data` section")
    parser.add_argument("--split", default="val", help="split of the data (default: val)")
    parser.add_argument("--draws", type=int, default=4, help="noises a sample (default: 4)")
    parser.add_argument("--limit", type=int, help="stop after about this many samples")
    options = parser.parse_args(arguments)
    share_cores()
    with one_line_errors():
        stage = load_module(options.checkpoint)
        if not isinstance(stage, MMIGStage):
            raise ValueError(f"{options.checkpoint} is a run of {type(stage).__name__}; it has no MMSM to switch off")
        result = compare_variants(stage, Path(options.data), options.split, options.draws, options.limit)
    Console().print(table(result, f"Held-out noise loss of {options.checkpoint}, split {options.split}"))


if __name__ == "__main__":
    main()
