"""Cross-attention of a denoiser, taken while it runs: what eq 19 and 20 are computed from.

No attention processor is replaced. Hooks keep references to the queries and keys that the layers of one resolution
compute anyway, and the probabilities, which SDPA never shows, are computed from them when they are asked for:
- every layer stays on SDPA and the denoiser's output is the same to the bit, with LoRA or any other processor too;
- what gradient checkpointing computes again in the backward pass are the operations of the forward pass, whether or
  not the hooks are still there. A processor that computed probabilities would have to stay in place until then.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class AttentionError(ValueError):
    """A denoiser without the cross-attention asked for, or cross-attention of an unknown kind."""


class _Layer(NamedTuple):
    """What one layer attended with: queries [B,N,C], keys [B,T,C], bias [B,1,T] added to the scores, or None."""

    query: Tensor
    key: Tensor
    bias: Tensor | None
    heads: int
    scale: float

    def probabilities(self, rows: slice) -> Tensor:
        """softmax(scale q k' + bias) in float32 whatever the precision of the forward pass was, [B,heads,N,T]."""
        with torch.autocast(self.query.device.type, enabled=False):
            query, key = (
                value[rows].float().unflatten(-1, (self.heads, -1)).transpose(1, 2) for value in (self.query, self.key)
            )
            scores = query @ key.transpose(-1, -2) * self.scale
            if self.bias is not None:
                scores = scores + self.bias[rows].float().unsqueeze(1)
            return scores.softmax(dim=-1)


class AttentionCapture:
    """Cross-attention of the denoiser's last forward pass at one resolution; made by `capture_attention`.

    Attributes:
        resolution: (h, w) of the queries.
    """

    def __init__(self, resolution: tuple[int, int]) -> None:
        self.resolution = resolution
        self._layers: dict[str, _Layer] = {}
        self._seen: Counter[int] = Counter()
        self._armed = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths of the layers that were reached, in the order of the forward pass."""
        return tuple(self._layers)

    def probabilities(self, rows: slice | None = None) -> dict[str, Tensor]:
        """Attention of each query to each text token, by module path: float32 [B,heads,h*w,T], sums over T are 1.

        Args:
            rows: of the denoiser's batch; under guidance those of the conditional branch. None takes all.

        Raises:
            AttentionError: no layer of this resolution was reached yet.
        """
        return {name: layer.probabilities(rows or slice(None)) for name, layer in self._reached().items()}

    def average(self, rows: slice | None = None) -> Tensor:
        """Mean of `probabilities` over layers and heads (A_t of A-STAR for every token), float32 [B,T,h,w].

        Args:
            rows: as in `probabilities`.
        """
        layers = [layer.probabilities(rows or slice(None)).mean(dim=1) for layer in self._reached().values()]
        return torch.stack(layers).mean(dim=0).transpose(1, 2).unflatten(2, self.resolution)

    def _reached(self) -> dict[str, _Layer]:
        if self._layers:
            return self._layers
        height, width = self.resolution
        found = ", ".join(f"{queries} ({count} layers)" for queries, count in sorted(self._seen.items()))
        raise AttentionError(
            f"attention resolution {height}x{width}: no cross-attention layer has {height * width} queries; "
            + (f"those of the last forward pass have {found}" if found else "run the denoiser first")
        )

    def _arm(self, *_: Any) -> None:
        self._layers.clear()
        self._seen.clear()
        self._armed = True

    def _disarm(self, *_: Any) -> None:
        # the layers run again in the backward pass under gradient checkpointing: that must leave no trace
        self._armed = False


@contextmanager
def capture_attention(model: nn.Module, resolution: tuple[int, int]) -> Iterator[AttentionCapture]:
    """Keep the cross-attention that a denoiser computes inside the `with` block, at one resolution.

    The result holds the last forward pass, with its graph: gradients reach latents, text states and the denoiser's
    weights, under gradient checkpointing too, and after the block. Other hooks (`mmig.diffusion.injection.inject`) may
    be attached around the same pass.

    Args:
        model: denoiser of diffusers whose cross-attention layers are named `attn2` (UNets of Stable Diffusion), as it
            is called: the capture begins and ends with this module's forward.
        resolution: (h, w) of the queries; A-STAR takes 16x16, which 5 layers of Stable Diffusion 1.5 have at 512 px.

    Yields:
        The capture, readable after each forward pass.

    Raises:
        AttentionError: the model has no such layers, or they normalise queries and keys after projecting them.
    """
    layers = {name: module for name, module in model.named_modules() if name.split(".")[-1] == "attn2"}
    if not layers:
        raise AttentionError(f"attention capture: {type(model).__name__} has no cross-attention layer named attn2")
    capture = AttentionCapture(resolution)
    with ExitStack() as stack:
        for name, layer in layers.items():
            _Tap(name, layer, capture).attach(stack)
        stack.enter_context(model.register_forward_pre_hook(capture._arm))
        stack.enter_context(model.register_forward_hook(capture._disarm, always_call=True))
        yield capture


class _Tap:
    """The hooks of one layer: they collect what it attends with and hand it over if the resolution is right."""

    def __init__(self, name: str, layer: nn.Module, capture: AttentionCapture) -> None:
        if getattr(layer, "norm_q", None) is not None or getattr(layer, "norm_k", None) is not None:
            raise AttentionError(f"attention layer {name}: normalised queries and keys are not supported")
        self.name, self.layer, self.capture = name, layer, capture
        self.query: Tensor | None = None
        self.key: Tensor | None = None
        self.bias: Tensor | None = None

    def attach(self, stack: ExitStack) -> None:
        layer = self.layer
        stack.enter_context(layer.register_forward_pre_hook(self._begin, with_kwargs=True))
        stack.enter_context(layer.to_q.register_forward_hook(self._keep_query))
        stack.enter_context(layer.to_k.register_forward_hook(self._keep_key))
        stack.enter_context(layer.register_forward_hook(self._end))

    def _begin(self, _layer: nn.Module, _inputs: tuple, named: dict[str, Any]) -> None:
        self.query = self.key = None
        self.bias = named.get("attention_mask") if self.capture._armed else None

    def _keep_query(self, _projection: nn.Module, _inputs: tuple, output: Tensor) -> None:
        if self.capture._armed:
            self.query = output

    def _keep_key(self, _projection: nn.Module, _inputs: tuple, output: Tensor) -> None:
        if self.capture._armed:
            self.key = output

    def _end(self, *_: Any) -> None:
        query, key, bias = self.query, self.key, self.bias
        self.query = self.key = self.bias = None
        if not self.capture._armed:
            return
        if query is None or key is None:
            raise AttentionError(
                f"attention layer {self.name}: its processor {type(self.layer.processor).__name__} does not call to_q "
                "and to_k; unfuse the projections"
            )
        height, width = self.capture.resolution
        self.capture._seen[query.shape[1]] += 1
        if query.shape[1] == height * width:
            self.capture._layers[self.name] = _Layer(query, key, bias, self.layer.heads, self.layer.scale)
