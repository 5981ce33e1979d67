"""The second way: a network learns for one prompt how codes move (StyleCLIP eq 7)."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from mmig.methods.styleclip.layers import EqualLinear, activated, pixel_norm

GROUPS = ("coarse", "medium", "fine")


class GroupMapper(nn.Module):
    """M of one group of codes.

    Args:
        width: of a code.
        num_layers: fully connected.
        norm_dim: that is normalised before: 1, the codes of a group together, as the authors' weights were trained; 2,
            each code by itself.
    """

    def __init__(self, width: int, num_layers: int, norm_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EqualLinear(width, width, lr_scale=0.01) for _ in range(num_layers))
        self.norm_dim = norm_dim

    def forward(self, codes: Tensor) -> Tensor:
        """[B,k,width] of codes [B,k,width]."""
        values = pixel_norm(codes, self.norm_dim)
        for layer in self.layers:
            values = activated(layer(values))
        return values


class LatentMapper(ModelMixin, ConfigMixin):
    """M_t: three networks for coarse, medium and fine codes (eq 7); 3,151,872 parameters of 512 numbers a code.

    Saved and loaded as diffusers' models are.

    Args:
        num_codes: n of the generator.
        width: of a code.
        groups: that move; codes of the others stay.
        bounds: index of the first medium and the first fine code.
        num_layers: of each network.
        norm_dim: see `GroupMapper`.

    Raises:
        ValueError: no group, an unknown one, or one without codes.
    """

    @register_to_config
    def __init__(
        self,
        num_codes: int = 18,
        width: int = 512,
        groups: Sequence[str] = GROUPS,
        bounds: Sequence[int] = (4, 8),
        num_layers: int = 4,
        norm_dim: int = 1,
    ) -> None:
        super().__init__()
        self.places = dict(zip(GROUPS, pairwise((0, *bounds, num_codes)), strict=True))
        wrong = [name for name in groups if name not in self.places or self.places[name][0] >= self.places[name][1]]
        if wrong or not groups or norm_dim not in (1, 2):
            raise ValueError(
                f"mapper.groups: expected some of {', '.join(GROUPS)}, each with codes, and norm_dim 1 or 2; found "
                f"{', '.join(groups) or 'none'} with bounds {list(bounds)} of {num_codes} codes and norm_dim {norm_dim}"
            )
        self.mappers = nn.ModuleDict({name: GroupMapper(width, num_layers, norm_dim) for name in groups})

    def forward(self, codes: Tensor) -> Tensor:
        """M_t(w), [B,n,width] of codes w+ [B,n,width]; zeros where a group does not move."""
        parts = []
        for name, (first, end) in self.places.items():
            own = codes[:, first:end]
            parts.append(self.mappers[name](own) if name in self.mappers else torch.zeros_like(own))
        return torch.cat(parts, dim=1)  # (7)
