"""Attaches modules that mix text into feature maps to a denoiser by path while it runs, and collects what they compute.

The hooks exist only inside the `with` block: nothing stays attached to the denoiser, whatever happens inside.
Feature maps may come as [B,C,h,w] (UNet) or as tokens [B,N,C] (transformers).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Protocol

import torch
from torch import Tensor, nn


class InjectionError(ValueError):
    """A location that does not exist, was not reached, or does not fit its module or the text states."""


class Mixed(Protocol):
    """What a `Mixer` computes: the feature map [B,C,h,w] to go on with, and what is measured about it."""

    feature_map: Tensor
    alignment_loss: Tensor
    pooled_text: Tensor
    pooled_map: Tensor


class Mixer(Protocol):
    """A module that mixes text states [B,L,text_dim] into a feature map [B,feature_dim,h,w], as MMIG's MMSM does."""

    feature_dim: int
    text_dim: int

    def __call__(self, feature_map: Tensor, text_states: Tensor, text_mask: Tensor) -> Mixed:
        """Mix; `text_mask` [B,L] is true where a token counts, and a row without any must pass unchanged."""
        ...


@dataclass
class Injection:
    """What the attached modules computed in the last forward pass of the denoiser.

    Attributes:
        active: rows that have text and are not switched off, bool [B].
        outputs: the modules' outputs by location, filled during the forward pass.
    """

    active: Tensor
    outputs: dict[str, Mixed] = field(default_factory=dict)

    @property
    def alignment_loss(self) -> Tensor:
        """L_MMSM (equation 13), mean over the locations, float32 [B]; 0 for inactive rows."""
        return torch.stack([output.alignment_loss for output in self._reached()]).mean(dim=0)

    def pooled_std(self) -> tuple[Tensor, Tensor]:
        """Spread of pooled e3 and e2 over the active rows: two scalars that go to 0 when the module collapses.

        Standard deviation over the rows, mean over the width, smallest over the locations. NaN with fewer than two
        active rows, where nothing can be said.
        """
        outputs = self._reached()
        return (
            torch.stack([_spread(output.pooled_text, self.active) for output in outputs]).min(),
            torch.stack([_spread(output.pooled_map, self.active) for output in outputs]).min(),
        )

    def _reached(self) -> list[Mixed]:
        if not self.outputs:
            raise InjectionError("mmsm: no location was reached yet; run the denoiser inside `with inject(...)` first")
        return list(self.outputs.values())


@contextmanager
def inject(
    model: nn.Module,
    modules: Mapping[str, Mixer],
    text_states: Tensor,
    text_mask: Tensor,
    active: Tensor | None = None,
    grid: tuple[int, int] | None = None,
) -> Iterator[Injection]:
    """Run a denoiser with mixers attached (MMIG paper, section 3.2: e1 leaves the denoiser, e6 enters it again).

    The output of the module at each location is replaced by e6. Where a module returns a tuple, as a UNet's down
    blocks do, its first entry is replaced and skip connections keep e1. A location must lie outside the regions that
    gradient checkpointing computes again: the mid, down and up blocks of a diffusers UNet do.

    Args:
        model: the denoiser; its parameters may be frozen, gradients pass through.
        modules: by module path, for example {"mid_block": mmsm}.
        text_states: e0, [B,L,D], B being the batch that the denoiser sees.
        text_mask: [B,L], nonzero where a token counts.
        active: bool [B]; false for rows that must pass unchanged (unconditional ones). Default: all active.
        grid: (h, w) of token features [B,N,C]; default: a square.

    Yields:
        The results, readable after each forward pass.

    Raises:
        InjectionError: a location does not exist or does not fit; see the message.
    """
    mask = text_mask.bool() if active is None else text_mask.bool() & active.bool().unsqueeze(1)
    result = Injection(active=mask.any(dim=1))
    with ExitStack() as stack:
        for path, mixer in modules.items():
            hook = _make_hook(path, mixer, text_states, mask, grid, result)
            stack.enter_context(_find(model, path).register_forward_hook(hook))
        yield result


def _make_hook(
    path: str, mixer: Mixer, text_states: Tensor, mask: Tensor, grid: tuple[int, int] | None, result: Injection
) -> Callable[[nn.Module, tuple, Tensor | tuple], Tensor | tuple]:
    def hook(_module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        hidden, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        feature_map = _to_map(path, hidden, grid)
        _check(path, mixer, feature_map, text_states)
        fused = mixer(feature_map, text_states, mask)
        result.outputs[path] = fused
        mixed = fused.feature_map if hidden.ndim == 4 else fused.feature_map.flatten(2).transpose(1, 2)
        return mixed if rest is None else (mixed, *rest)

    return hook


def _find(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        parts = ", ".join(name for name, _ in model.named_children())
        raise InjectionError(
            f"mmsm location {path!r}: {type(model).__name__} has no such module; its parts are {parts}"
        ) from error


def _to_map(path: str, hidden: Tensor, grid: tuple[int, int] | None) -> Tensor:
    """Bring [B,C,h,w] or [B,N,C] to [B,C,h,w]."""
    if hidden.ndim == 4:
        return hidden
    if hidden.ndim != 3:
        raise InjectionError(f"mmsm location {path!r}: expected [B,C,h,w] or [B,N,C], found {tuple(hidden.shape)}")
    num_tokens = hidden.shape[1]
    height, width = grid or (isqrt(num_tokens), isqrt(num_tokens))
    if height * width != num_tokens:
        raise InjectionError(
            f"mmsm location {path!r}: {num_tokens} tokens are no {height}x{width} grid; give `grid` as (h, w)"
        )
    return hidden.transpose(1, 2).unflatten(2, (height, width))


def _check(path: str, mixer: Mixer, feature_map: Tensor, text_states: Tensor) -> None:
    for what, expected, found in (
        ("channels of the feature map", mixer.feature_dim, feature_map.shape[1]),
        ("width of the text states", mixer.text_dim, text_states.shape[-1]),
        ("rows of text states for the denoiser's batch", feature_map.shape[0], text_states.shape[0]),
    ):
        if expected != found:
            raise InjectionError(f"mmsm location {path!r}: {what}: expected {expected}, found {found}")


def _spread(pooled: Tensor, rows: Tensor) -> Tensor:
    """Standard deviation over the given rows, mean over the width; without indexing, which would wait for the GPU."""
    weights, count = rows.float().unsqueeze(1), rows.sum()
    centred = pooled.detach() - (pooled.detach() * weights).sum(dim=0) / count
    variance = (centred.square() * weights).sum(dim=0) / (count - 1)
    return torch.where(count > 1, variance.clamp(min=0).sqrt().mean(), torch.nan)
