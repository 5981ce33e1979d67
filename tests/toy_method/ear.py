"""The backbone: loudness of a sound in bands of frequency."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmig.backbones.hub import locate
from mmig.backbones.named import Source
from mmig.backbones.parts import Part

EAR = Part("ear", "ear", kinds=("toy_ear",))
NUM_FREQUENCIES = 64


class Ear(nn.Module):
    """Bands of a spectrum.

    Args:
        num_bands: how many it tells apart.
    """

    def __init__(self, num_bands: int = 8) -> None:
        super().__init__()
        self.num_bands = num_bands
        self.bands = nn.Linear(NUM_FREQUENCIES, num_bands, bias=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Loudness in each band, [B,num_bands], of sounds [B,n]."""
        spectrum = torch.fft.rfft(audio, n=2 * (NUM_FREQUENCIES - 1)).abs()
        return self.bands(spectrum / spectrum.amax(dim=1, keepdim=True).clamp(min=1e-6))

    def save(self, folder: Path) -> Path:
        """Write the folder that `load_ear` reads."""
        folder.mkdir(parents=True)
        save_file(dict(self.state_dict()), folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps({"model_type": "toy_ear", "num_bands": self.num_bands}))
        return folder


def load_ear(path: Source) -> Ear:
    """The frozen ear of a folder."""
    folder = locate(path, EAR)
    ear = Ear(json.loads((folder / "config.json").read_text())["num_bands"])
    ear.load_state_dict(load_file(folder / "model.safetensors"))
    return ear.requires_grad_(False).eval()


def make_ear(folder: Path) -> Path:
    """Write an ear whose bands are those of the spectrum."""
    ear = Ear()
    wide = NUM_FREQUENCIES // ear.num_bands
    with torch.no_grad():
        ear.bands.weight.copy_(torch.eye(ear.num_bands).repeat_interleave(wide, dim=1) / wide)
    return ear.save(folder)
