"""Random faults of pictures, as reconstructions and drawn pictures have them: exposure, blur and noise."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmig.training.rng import Draws


@dataclass
class Augmentation:
    """The largest faults; each is drawn uniformly up to it, for every picture.

    Attributes:
        exposure: largest change of the pixels' factor, either way.
        blur: largest share of the 3x3 mean in a pixel, in [0, 1].
        noise: largest standard deviation of white noise, of pixels in [-1, 1].
    """

    exposure: float = 0.0
    blur: float = 0.0
    noise: float = 0.0


def augmented(images: Tensor, settings: Augmentation, draws: Draws, name: str) -> Tensor:
    """Images [B,3,H,W] in [-1,1] with faults that follow from the sample and `name`, the field they come from."""

    def share(kind: str) -> Tensor:
        return draws.uniform(f"{kind} of {name}").to(images.device)[:, None, None, None]

    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = torch.lerp(images, blurred, settings.blur * share("blur"))
    images = (images + 1) * (1 + settings.exposure * (2 * share("exposure") - 1)) - 1
    noise = draws.normal(f"noise of {name}", images.shape[1:]).to(images.device)
    return (images + settings.noise * share("noise") * noise).clamp(-1, 1)
