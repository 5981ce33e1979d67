"""The weights that a new run begins with."""

import sys

from mmig.checkpoints.checkpoint import init_weights, read_start
from mmig.training.module import TrainingModule


def start_weights(module: TrainingModule, run: str | None, is_told: bool) -> None:
    """Give a module the weights of an earlier run, where there is one, and say which of them it does without.

    Args:
        module: of the new run.
        run: as --init_from names it; None: the module stays as it was built.
        is_told: whether this process says something.

    Raises:
        CheckpointError: weights that do not fit.
        ValueError: no earlier run, and a part that would stay as it was drawn at random.
    """
    if run is None:
        if module.unlearnt_parts:
            raise ValueError(
                f"{type(module).__name__} freezes {', '.join(module.unlearnt_parts)}, whose weights are fresh: name a "
                "run that has trained them (--init_from) or a folder of trained ones, or take a stage that trains them"
            )
        return
    left_out = init_weights(module, read_start(module, run))
    if left_out and is_told:
        sys.stderr.write(
            f"warning: --init_from {run}: {len(left_out)} weights are left out of this run and its checkpoints, "
            f"{left_out[0]} first, for {type(module).__name__} does without {', '.join(module.absent_parts)}\n"
        )
