"""The method from outside: a sound in, a picture out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from datamodules.schema import Batch
from mmig.base.values import check_values
from mmig.diffusion.sampling import per_sample
from mmig.editor import Editor, EditOutput, ResponseSource
from tests.toy_method.ear import Ear, load_ear
from tests.toy_method.painter import NOISE, Painter


@dataclass(frozen=True)
class ToneSampling:
    """How to paint.

    Attributes:
        variety: size of the noise.
    """

    variety: float = 1.0

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        check_values(self, "sampling")


class ToneEditor:
    """Paints the first sound of each sample.

    Args:
        ear: hears it.
        painter: paints it.
        sampling: how.
    """

    required_fields: tuple[str, ...] = ("attachment_audio",)
    response_source: ResponseSource = "none"

    def __init__(self, ear: Ear, painter: Painter, sampling: ToneSampling | None = None) -> None:
        self.ear, self.painter, self.sampling = ear, painter, sampling or ToneSampling()

    @torch.no_grad()
    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        """Paint a batch."""
        audio = first_sounds(batch)
        draws = per_sample(generator, len(audio))
        noise = torch.stack([torch.randn(NOISE, generator=draw) for draw in draws]).to(audio.device)
        images = self.painter(self.ear(audio), self.sampling.variety * noise)
        return EditOutput(images=images.contiguous(), texts=[""] * len(audio))


def first_sounds(batch: Batch) -> Tensor:
    """The first sound of each sample, [B,n]; silence where it has none."""
    audio = batch["attachment_audio"]
    return audio[:, 0] if audio.shape[1] else audio.new_zeros(len(batch["key"]), 1)


def open_editor(path: str, sampling: ToneSampling | None = None) -> Editor:
    """The editor of an exported folder."""
    folder = Path(path)
    sizes = json.loads((folder / "painter" / "config.json").read_text())
    painter = Painter(**sizes)
    painter.load_state_dict(load_file(folder / "painter" / "model.safetensors"))
    return ToneEditor(load_ear(folder), painter.eval(), sampling)
