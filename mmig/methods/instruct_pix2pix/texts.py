"""Which text of a sample conditions the editor."""

from typing import Literal

from datamodules.schema import Batch
from mmig.training.rng import Draws

TextField = Literal["instruction", "response", "target_caption"]
TextSource = Literal["instruction", "response", "target_caption", "mixed"]
TEXT_FIELDS: tuple[TextField, ...] = ("instruction", "response", "target_caption")


def condition_fields(batch: Batch, text: TextSource, draws: Draws) -> list[str]:
    """Which text of each sample; "mixed" draws evenly from those of the three that the sample has ("" if none)."""
    if text != "mixed":
        return [text] * len(batch["key"])
    chosen = []
    for row, draw in enumerate(draws.uniform("text").tolist()):
        given = [name for name in TEXT_FIELDS if batch[name][row]] or [""]
        chosen.append(given[int(draw * len(given))])
    return chosen
