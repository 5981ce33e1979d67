"""How large the changes of fresh mutual support modules are before `scale`, where they have a `start`."""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.token_connectors.scale import square_sums


def unmeasured(mmsm: Mapping[str, nn.Module]) -> bool:
    """Whether there is a module whose `scale` is not measured yet."""
    return any(module.start and not module.scale > 0 for module in mmsm.values())


@torch.no_grad()
def change_sizes(losses: Losses) -> dict[str, Tensor]:
    """`square_sums` of what the unmeasured modules would add in forward A, over the samples with a text.

    By name, in the order in which the denoiser reaches them: what the first adds changes what the others see, so that
    they are to be measured one after another.
    """
    changes: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for name, module in losses.model.mmsm.items():
            if unmeasured({name: module}):
                note = lambda _module, _inputs, change, name=name: changes.update({name: change})  # noqa: E731
                handle = module.feature_decoder.register_forward_hook(note)
                hooks.callback(handle.remove)
        active = losses.a.injection.active
    return {name: _sums(change, active) for name, change in changes.items()}


def _sums(change: Tensor, active: Tensor) -> Tensor:
    """Of [B,C,h,w] where bool [B] is true."""
    places = change.flatten(2).transpose(1, 2)
    return square_sums(places, active.unsqueeze(1).expand(places.shape[:2]))
