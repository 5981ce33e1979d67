"""Attention of a denoiser to text, taken while it runs: what eq 19 and 20 are computed from.

UNets (SDXL's too) and transformers such as PixArt attend to text in layers of their own. Where image and text are one
sequence (joint attention, Stable Diffusion 3, FLUX), what is taken is how the image's queries attend to the text's
keys; of FLUX.1 Kontext, whose source is further tokens, those of the noisy latents alone.

No attention processor is replaced. Hooks keep references to the queries and keys that the layers of one resolution
compute anyway, and the probabilities, which SDPA never shows, are computed from them when they are asked for:

- every layer stays on SDPA and the denoiser's output is the same to the bit, with LoRA or any other processor too;
- what gradient checkpointing computes again in the backward pass are the operations of the forward pass, whether or
  not the hooks are still there. A processor that computed probabilities would have to stay in place until then.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class AttentionError(ValueError):
    """A denoiser without the cross-attention asked for, or cross-attention of an unknown kind."""


class _Layer(NamedTuple):
    """What one layer attended with: queries [B,N,C] and keys [B,T,C], or [B,heads,N,d] where they were normalised by
    head; bias [B,1,T] added to the scores, or None; the keys that are not text's in joint attention, or None.
    """

    query: Tensor
    key: Tensor
    bias: Tensor | None
    heads: int
    scale: float
    others: Tensor | None = None

    def probabilities(self, rows: slice) -> Tensor:
        """softmax(scale q k' + bias) in float32 whatever the precision of the forward pass was, [B,heads,N,T]."""
        with torch.autocast(self.query.device.type, enabled=False):
            query = self._by_head(self.query[rows])
            scores = query @ self._by_head(self.key[rows]).transpose(-1, -2) * self.scale
            if self.bias is not None:
                scores = scores + self.bias[rows].float().unsqueeze(1)
            if self.others is None:
                return scores.softmax(dim=-1)
            rest = query @ self._by_head(self.others[rows]).transpose(-1, -2) * self.scale
            return torch.cat([scores, rest], dim=-1).softmax(dim=-1)[..., : scores.shape[-1]]

    def _by_head(self, value: Tensor) -> Tensor:
        """Float32 [B,heads,N,d]."""
        return value.float() if value.ndim == 4 else value.float().unflatten(-1, (self.heads, -1)).transpose(1, 2)


class AttentionCapture:
    """Cross-attention of the denoiser's last forward pass at one resolution; made by `capture_attention`.

    Attributes:
        resolution: (h, w) of the queries.
        num_text: tokens of the text in the pass that runs; None where the denoiser is told of it otherwise.
    """

    def __init__(self, resolution: tuple[int, int]) -> None:
        self.resolution = resolution
        self.num_text: int | None = None
        self._layers: dict[str, _Layer] = {}
        self._seen: Counter[int] = Counter()
        self._armed = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Module paths of the layers that were reached, in the order of the forward pass."""
        return tuple(self._layers)

    def probabilities(self, rows: slice | None = None) -> dict[str, Tensor]:
        """Attention of each query to each text token, by module path: float32 [B,heads,h*w,T].

        Sums over T are 1; in joint attention less, for the rest goes to the image.

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

    def _arm(self, _model: Any = None, _inputs: tuple = (), named: Mapping[str, Any] = MappingProxyType({})) -> None:
        self._layers.clear()
        self._seen.clear()
        text = named.get("encoder_hidden_states")
        self.num_text = None if text is None else text.shape[1]
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
        model: denoiser of diffusers with cross-attention in layers named `attn2` (UNets of Stable Diffusion and SDXL,
            PixArt) or joint attention (Stable Diffusion 3, FLUX), as it is called: the capture begins and ends with
            this module's forward.
        resolution: (h, w) of the queries; A-STAR takes 16x16, which 5 layers of Stable Diffusion 1.5 have at 512 px.
            All layers of a transformer have that of the latents over its patch size, of FLUX half the latents' sides.

    Yields:
        The capture, readable after each forward pass.

    Raises:
        AttentionError: the model has no such layers, or, when it runs, they attend in a way that is not known here.
    """
    layers = {name: module for name, module in model.named_modules() if _sees_text(name, module)}
    if not layers:
        raise AttentionError(
            f"attention capture: {type(model).__name__} has no cross-attention layer named attn2 and no joint attention"
        )
    capture = AttentionCapture(resolution)
    with ExitStack() as stack:
        for name, layer in layers.items():
            (_RotaryTap if _is_rotary(layer) else _Tap)(name, layer, capture).attach(stack)
        stack.enter_context(model.register_forward_pre_hook(capture._arm, with_kwargs=True))
        stack.enter_context(model.register_forward_hook(capture._disarm, always_call=True))
        yield capture


def _sees_text(name: str, module: nn.Module) -> bool:
    """Whether a module is a cross-attention layer or one of joint attention; other `attn2` attend to the image."""
    if getattr(module, "add_k_proj", None) is not None or _is_rotary(module):
        return True
    return name.rpartition(".")[2] == "attn2" and getattr(module, "is_cross_attention", True)


def _is_rotary(module: nn.Module) -> bool:
    """Whether a module attends as FLUX does; its single blocks are given text and image as one sequence."""
    return type(module).__name__ == "FluxAttention"


class _Tap:
    """The hooks of one layer: they collect what it attends with and hand it over if the resolution is right.

    Queries and keys are what the projections give, or, where they are normalised after that, what the norms give.
    """

    def __init__(self, name: str, layer: nn.Module, capture: AttentionCapture) -> None:
        self.name, self.layer, self.capture = name, layer, capture
        self.joint = getattr(layer, "add_k_proj", None) is not None
        self.seen: dict[str, Tensor] = {}
        self.bias: Tensor | None = None

    def attach(self, stack: ExitStack) -> None:
        layer = self.layer
        stack.enter_context(layer.register_forward_pre_hook(self._begin, with_kwargs=True))
        sources = {"query": ("to_q", "norm_q"), "key": ("to_k", "norm_k"), "text": ("add_k_proj", "norm_added_k")}
        for what, modules in sources.items():
            for module in (getattr(layer, each, None) for each in modules):
                if module is not None:
                    stack.enter_context(module.register_forward_hook(partial(self._keep, what)))
        stack.enter_context(layer.register_forward_hook(self._end))

    def _begin(self, _layer: nn.Module, _inputs: tuple, named: dict[str, Any]) -> None:
        self.seen.clear()
        self.bias = named.get("attention_mask") if self.capture._armed else None
        if named.get("image_rotary_emb") is not None or (self.joint and self.bias is not None):
            what = "rotary positions" if self.bias is None else "masks of joint attention"
            raise AttentionError(f"attention layer {self.name}: {what} are not supported")

    def _keep(self, what: str, _module: nn.Module, _inputs: tuple, output: Tensor) -> None:
        if self.capture._armed:
            self.seen[what] = output

    def _end(self, *_: Any) -> None:
        seen, bias = dict(self.seen), self.bias
        self.seen.clear()
        self.bias = None
        if not self.capture._armed or (self.joint and "query" in seen and "text" not in seen):  # it was given no text
            return
        key = seen.get("text" if self.joint else "key")
        if "query" not in seen or key is None:
            raise AttentionError(
                f"attention layer {self.name}: its processor {type(self.layer.processor).__name__} does not call to_q "
                "and to_k; unfuse the projections"
            )
        query = seen["query"]
        height, width = self.capture.resolution
        queries = query.shape[-2]
        self.capture._seen[queries] += 1
        if queries == height * width:
            others = seen.get("key") if self.joint else None
            self.capture._layers[self.name] = _Layer(query, key, bias, self.layer.heads, self.layer.scale, others)


class _RotaryTap(_Tap):
    """The same of FLUX: what its norms give, [B,N,heads,d], turned by the rotary positions of their tokens.

    Text stands before the image. Of as many image tokens again as the resolution has, the second half is the source's.
    """

    def _begin(self, _layer: nn.Module, _inputs: tuple, named: dict[str, Any]) -> None:
        self.seen.clear()
        self.rotary = named.get("image_rotary_emb")
        if self.capture._armed and named.get("attention_mask") is not None:
            raise AttentionError(f"attention layer {self.name}: masks of joint attention are not supported")

    def _end(self, *_: Any) -> None:
        seen = dict(self.seen)
        self.seen.clear()
        if not self.capture._armed:
            return
        query, key = seen["query"], seen["key"]
        if self.joint:
            text, start = seen["text"], seen["text"].shape[1]
        else:
            start = self.capture.num_text or 0
            text, query, key = key[:, :start], query[:, start:], key[:, start:]
        height, width = self.capture.resolution
        wanted, found = height * width, query.shape[1]
        self.capture._seen[found] += 1
        if found in (wanted, 2 * wanted):
            query, key = self._turned(query[:, :wanted], start), self._turned(key, start)
            heads, scale = self.layer.heads, self.layer.head_dim**-0.5
            self.capture._layers[self.name] = _Layer(query, self._turned(text, 0), None, heads, scale, key)

    def _turned(self, values: Tensor, first: int) -> Tensor:
        """[B,N,heads,d] of the tokens from `first` on -> [B,heads,N,d]."""
        from diffusers.models.embeddings import apply_rotary_emb

        if self.rotary is not None:
            places = tuple(value[first : first + values.shape[1]] for value in self.rotary)
            values = apply_rotary_emb(values, places, sequence_dim=1)
        return values.transpose(1, 2)
