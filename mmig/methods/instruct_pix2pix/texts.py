"""Which text of a sample conditions the editor."""

from typing import Literal

from datamodules.schema import Batch
from mmig.rng import Draws

TextField = Literal["instruction", "response", "target_caption"]
TextSource = Literal["instruction", "response", "target_caption", "mixed"]
TEXT_FIELDS: tuple[TextField, ...] = ("instruction", "response", "target_caption")


def condition_texts(batch: Batch, text: TextSource, draws: Draws) -> list[str]:
    """Text of each sample; "mixed" draws evenly from those of the three that the sample has."""
    if text != "mixed":
        return list(batch[text])
    uniform = draws.uniform("text").tolist()
    chosen = []
    for row, draw in enumerate(uniform):
        given = [batch[name][row] for name in TEXT_FIELDS if batch[name][row]] or [""]
        chosen.append(given[int(draw * len(given))])
    return chosen
