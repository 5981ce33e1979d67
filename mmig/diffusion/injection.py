"""Attaches modules that mix text into feature maps to a denoiser by path while it runs, and collects what they compute.

The hooks exist only inside the `with` block: nothing stays attached to the denoiser, whatever happens inside.
Feature maps may come as [B,C,h,w] (UNet) or as tokens [B,N,C] (transformers), beside tokens of the text too (joint
attention).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isqrt
from typing import Any, Protocol

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
    image_entry: int | None = None,
) -> Iterator[Injection]:
    """Run a denoiser with mixers attached (MMIG paper, section 3.2: e1 leaves the denoiser, e6 enters it again).

    The output of the module at each location is replaced by e6. Of a tuple that is the first entry, as of a UNet's down
    blocks, whose skip connections keep e1; of several sequences, as blocks of joint attention return them, the one with
    as many tokens as the image has. Gradient checkpointing computes the denoiser's blocks again, mixers never: a
    location may be such a block, but none inside of one.

    Args:
        model: the denoiser; its parameters may be frozen, gradients pass through. The mixers work in its forward.
        modules: by module path: {"mid_block": mmsm} of a UNet, {"transformer_blocks.14": mmsm} of a transformer.
        text_states: e0, [B,L,D], B being the batch that the denoiser sees.
        text_mask: [B,L], nonzero where a token counts.
        active: bool [B]; false for rows that must pass unchanged (unconditional ones). Default: all active.
        grid: (h, w) of token features [B,N,C]; default: of the shape of the latents that the denoiser is called with.
        image_entry: which entry of a location's tuple is the image's; it may have more tokens than the grid. Those
            behind it are the source's (FLUX.1 Kontext) and pass as they are.

    Yields:
        The results, readable after each forward pass.

    Raises:
        InjectionError: a location does not exist or does not fit; see the message.
    """
    mask = text_mask.bool() if active is None else text_mask.bool() & active.bool().unsqueeze(1)
    result = Injection(active=mask.any(dim=1))
    current = _Pass(grid, image_entry)
    with ExitStack() as stack:
        stack.enter_context(model.register_forward_pre_hook(current.begin))
        stack.enter_context(model.register_forward_hook(current.end, always_call=True))
        for path, mixer in modules.items():
            module = _find(model, path)
            attached = _Attached(path, mixer, text_states, mask, current, result, _computed_again(model, path))
            stack.enter_context(module.register_forward_hook(attached))
        yield result


class _Pass:
    """The forward pass of the denoiser that runs: whether it does, and the grid of its tokens.

    Args:
        grid: (h, w) of tokens, where it is known.
        entry: of the image in a location's output, where it is known.
    """

    def __init__(self, grid: tuple[int, int] | None, entry: int | None = None) -> None:
        self.fixed, self.size, self.entry, self.runs = grid, grid, entry, True

    def begin(self, _model: nn.Module, inputs: tuple) -> None:
        self.runs = True
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].ndim == 4:
            self.size = inputs[0].shape[-2:]

    def end(self, *_: Any) -> None:
        self.runs = False  # what runs in the backward pass is gradient checkpointing's

    def grid(self, tokens: int) -> tuple[int, int]:
        """(h, w) that so many tokens should have: the given one, or the latents' over a patch size, or a square."""
        if self.fixed is not None or self.size is None:
            return self.fixed or (isqrt(tokens), isqrt(tokens))
        patch = max(1, isqrt(self.size[0] * self.size[1] // tokens))
        return self.size[0] // patch, self.size[1] // patch

    def fits(self, tokens: int) -> bool:
        """Whether so many tokens can be the image's."""
        height, width = self.grid(tokens)
        return height * width == tokens


@dataclass
class _Attached:
    """The hook of one location; `again`: gradient checkpointing computes it again."""

    path: str
    mixer: Mixer
    text_states: Tensor
    mask: Tensor
    current: _Pass
    result: Injection
    again: bool

    def __call__(self, _module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
        if not self.current.runs:
            return None
        entries = list(output) if isinstance(output, tuple) else [output]
        index = self._image_entry(entries)
        hidden, source = self._without_source(entries[index])
        feature_map = self._to_map(hidden)
        _check(self.path, self.mixer, feature_map, self.text_states)
        with _keep_as_is() if self.again else nullcontext():
            fused = self.mixer(feature_map, self.text_states, self.mask)
        self.result.outputs[self.path] = fused
        mixed = fused.feature_map if hidden.ndim == 4 else fused.feature_map.flatten(2).transpose(1, 2)
        mixed = mixed if source is None else torch.cat([mixed, source], dim=1)
        entries[index] = mixed
        return tuple(entries) if isinstance(output, tuple) else mixed

    def _image_entry(self, entries: Sequence[Any]) -> int:
        """Which entry of a module's output is the image's."""
        if self.current.entry is not None:
            if len(entries) <= self.current.entry:
                raise InjectionError(
                    f"mmsm location {self.path!r}: expected a block that gives text and image apart, found one output; "
                    "take the block around it"
                )
            return self.current.entry
        found = [index for index, value in enumerate(entries) if isinstance(value, Tensor)]
        sequences = [index for index in found if entries[index].ndim == 3]
        if len(sequences) < 2 or sequences[0] != found[0]:
            return found[0] if found else 0
        fitting = [index for index in sequences if self.current.fits(entries[index].shape[1])]
        if len(fitting) != 1:
            counts = " and ".join(str(entries[index].shape[1]) for index in sequences)
            raise InjectionError(
                f"mmsm location {self.path!r}: it gives sequences of {counts} tokens, of which {len(fitting)} fit the "
                "image; give `grid` as (h, w), or a location that gives the image alone"
            )
        return fitting[0]

    def _without_source(self, hidden: Any) -> tuple[Any, Tensor | None]:
        """The image's tokens and those of the source behind them, where the grid says how many are the image's."""
        if self.current.entry is None or self.current.fixed is None:
            return hidden, None
        height, width = self.current.fixed
        return hidden[:, : height * width], hidden[:, height * width :]

    def _to_map(self, hidden: Any) -> Tensor:
        """Bring [B,C,h,w] or [B,N,C] to [B,C,h,w]."""
        if isinstance(hidden, Tensor) and hidden.ndim == 4:
            return hidden
        if not isinstance(hidden, Tensor) or hidden.ndim != 3:
            found = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            raise InjectionError(f"mmsm location {self.path!r}: expected [B,C,h,w] or [B,N,C], found {found}")
        tokens = hidden.shape[1]
        height, width = self.current.grid(tokens)
        if height * width != tokens:
            raise InjectionError(
                f"mmsm location {self.path!r}: {tokens} tokens are no {height}x{width} grid; give `grid` as (h, w)"
            )
        return hidden.transpose(1, 2).unflatten(2, (height, width))


def _find(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        names = [name for name, _ in model.named_modules() if name]
        nearest = get_close_matches(path, names, n=1, cutoff=0.0)
        parts = ", ".join(name for name, _ in model.named_children())
        raise InjectionError(
            f"mmsm location {path!r}: {type(model).__name__} has no such module; the nearest is {nearest[0]!r} "
            f"(its parts are {parts})"
        ) from error


def _computed_again(model: nn.Module, path: str) -> bool:
    """Whether gradient checkpointing may compute a location again: as a child, or an entry of a list, of what does so.

    Raises:
        InjectionError: the location lies deeper, inside of what is computed again, where it would change the result.
    """
    names, again = path.split("."), False
    for depth in range(len(names)):
        owner = model.get_submodule(".".join(names[:depth]))
        if not getattr(owner, "gradient_checkpointing", False):
            continue
        below = 2 if isinstance(owner.get_submodule(names[depth]), nn.ModuleList) else 1
        if len(names) > depth + below:
            raise InjectionError(
                f"mmsm location {path!r}: it lies inside of {'.'.join(names[: depth + below])!r}, which gradient "
                "checkpointing computes again; take that block, or leave checkpointing out"
            )
        again = True
    return again


def _keep_as_is() -> AbstractContextManager[object]:
    """Lets autograd keep what a mixer needs, though the block before it is computed again, without its mixer."""
    return torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)


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
