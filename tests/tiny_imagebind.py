"""A random ImageBind in the layout of imagebind_huge.pth, and what it makes of its inputs, written by its names alone.

Of the published sizes it keeps those that no weight tells: heads 80, 64 and 64 wide, 128 x 204 features, patches of 16
every 10.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

DIM, SIDE, PATCH, LAYERS = 48, 28, 14, 2
WIDTHS = {"vision": 160, "text": 128, "audio": 64}
HEADS = {"vision": 2, "text": 2, "audio": 1}
State = dict[str, Tensor]


def published_state(vocabulary: int, seed: int = 0) -> State:
    """Weights by their published names; of depth, heat and movement a few, as the file holds them too."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) / (8 if len(shape) < 2 else math.sqrt(math.prod(shape[1:])))

    state: State = {}

    def norm(name: str, width: int) -> None:
        state.update({f"{name}.weight": 1 + draw(width), f"{name}.bias": draw(width)})

    for modality, width in WIDTHS.items():
        before = f"modality_preprocessors.{modality}"
        if modality != "text":
            tokens = 1 + (SIDE // PATCH) ** 2 if modality == "vision" else 229
            state[f"{before}.cls_token"] = draw(1, 1, width)
            state[f"{before}.pos_embedding_helper.pos_embed"] = draw(1, tokens, width)
        for layer in range(LAYERS):
            block = f"modality_trunks.{modality}.blocks.{layer}"
            for name, shape in _shapes(width).items():
                state[f"{block}.{name}"] = draw(*shape)
            if modality == "audio":
                state |= {f"{block}.attn.bias_{part}": draw(1, 1, width) for part in "kv"}
            norm(f"{block}.norm_1", width)
            norm(f"{block}.norm_2", width)
        head = "modality_heads.text.proj" if modality == "text" else f"modality_heads.{modality}"
        norm(f"{head}.0", width)
        state[f"{head}.{1 if modality == 'text' else 2}.weight"] = draw(DIM, width)
    stems = {name: f"modality_preprocessors.{name}.rgbt_stem" for name in WIDTHS}
    state[f"{stems['vision']}.proj.1.weight"] = draw(WIDTHS["vision"], 3, 2, PATCH, PATCH)
    norm("modality_trunks.vision.pre_transformer_layer.0", WIDTHS["vision"])
    state["modality_preprocessors.text.token_embedding.weight"] = draw(vocabulary, WIDTHS["text"])
    state["modality_preprocessors.text.pos_embed"] = draw(1, 77, WIDTHS["text"])
    state["modality_preprocessors.text.mask"] = torch.full((77, 77), -torch.inf).triu(1)
    state[f"{stems['audio']}.proj.weight"] = draw(WIDTHS["audio"], 1, 16, 16)
    norm(f"{stems['audio']}.norm_layer", WIDTHS["audio"])
    scales = {"text": 1 / 0.05, "audio": 20.0, "depth": 5.0, "thermal": 10.0, "imu": 5.0}
    state |= {f"modality_postprocessors.{name}.1.log_logit_scale": torch.tensor(scales[name]).log() for name in scales}
    state["modality_trunks.imu.blocks.0.attn.bias_k"] = draw(1, 1, 8)
    state["modality_preprocessors.thermal.rgbt_stem.proj.weight"] = draw(8, 1, 16, 16)
    state["modality_heads.depth.2.weight"] = draw(DIM, 8)
    return state


def embed_image(state: State, pixels: Tensor) -> Tensor:
    """Vectors [N,D] of normalised pixels [N,3,SIDE,SIDE]: each picture as a film of two frames."""
    before = "modality_preprocessors.vision"
    kernel = state[f"{before}.rgbt_stem.proj.1.weight"]
    patches = F.conv3d(torch.stack([pixels, pixels], dim=2), kernel, stride=(2, PATCH, PATCH)).flatten(2).mT
    states = _with_class_token(state, before, patches)
    states = _trunk(state, "vision", _norm(state, "modality_trunks.vision.pre_transformer_layer.0", states, 1e-6))
    found = _norm(state, "modality_heads.vision.0", states, 1e-6)[:, 0] @ state["modality_heads.vision.2.weight"].T
    return found / found.norm(dim=-1, keepdim=True)


def embed_text(state: State, ids: Tensor) -> Tensor:
    """Vectors [N,D] of ids [N,77] whose largest is the end of text, at the learned length."""
    before = "modality_preprocessors.text"
    states = state[f"{before}.token_embedding.weight"][ids] + state[f"{before}.pos_embed"]
    states = _trunk(state, "text", states, state[f"{before}.mask"])
    ends = states[torch.arange(len(ids)), ids.argmax(dim=-1)]
    found = _norm(state, "modality_heads.text.proj.0", ends, 1e-6) @ state["modality_heads.text.proj.1.weight"].T
    scale = state["modality_postprocessors.text.1.log_logit_scale"].exp().clamp(max=100)
    return scale * found / found.norm(dim=-1, keepdim=True)


def embed_audio(state: State, features: Tensor) -> Tensor:
    """Vectors [N,D] of features [N,S,128,204]: the mean over clips of length 20."""
    before = "modality_preprocessors.audio"
    patches = F.conv2d(features.flatten(0, 1)[:, None], state[f"{before}.rgbt_stem.proj.weight"], stride=10)
    patches = _norm(state, f"{before}.rgbt_stem.norm_layer", patches.flatten(2).mT, 1e-5)
    states = _trunk(state, "audio", _with_class_token(state, before, patches))
    found = _norm(state, "modality_heads.audio.0", states, 1e-6)[:, 0] @ state["modality_heads.audio.2.weight"].T
    scale = state["modality_postprocessors.audio.1.log_logit_scale"].exp()
    return (scale * found / found.norm(dim=-1, keepdim=True)).unflatten(0, features.shape[:2]).mean(1)


def _shapes(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "attn.in_proj_weight": (3 * width, width),
        "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width),
        "attn.out_proj.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
    }


def _with_class_token(state: State, before: str, patches: Tensor) -> Tensor:
    first = state[f"{before}.cls_token"].expand(len(patches), 1, -1)
    return torch.cat([first, patches], dim=1) + state[f"{before}.pos_embedding_helper.pos_embed"]


def _norm(state: State, name: str, states: Tensor, eps: float) -> Tensor:
    return F.layer_norm(states, states.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _trunk(state: State, modality: str, states: Tensor, mask: Tensor | None = None) -> Tensor:
    for layer in range(LAYERS):
        name = f"modality_trunks.{modality}.blocks.{layer}"
        states = states + _attention(
            state, f"{name}.attn", _norm(state, f"{name}.norm_1", states, 1e-6), modality, mask
        )
        inner = _norm(state, f"{name}.norm_2", states, 1e-6) @ state[f"{name}.mlp.fc1.weight"].T
        inner = F.gelu(inner + state[f"{name}.mlp.fc1.bias"]) @ state[f"{name}.mlp.fc2.weight"].T
        states = states + inner + state[f"{name}.mlp.fc2.bias"]
    return states


def _attention(state: State, name: str, states: Tensor, modality: str, mask: Tensor | None) -> Tensor:
    mixed = states @ state[f"{name}.in_proj_weight"].T + state[f"{name}.in_proj_bias"]
    queries, keys, values = mixed.chunk(3, dim=-1)
    if modality == "audio":
        keys, values = (
            torch.cat([part, state[f"{name}.bias_{kind}"].expand(len(part), 1, -1)], dim=1)
            for kind, part in (("k", keys), ("v", values))
        )
    queries, keys, values = (
        part.unflatten(-1, (HEADS[modality], -1)).transpose(1, 2) for part in (queries, keys, values)
    )
    weights = queries @ keys.mT / math.sqrt(queries.shape[-1]) + (0 if mask is None else mask)
    found = (weights.softmax(dim=-1) @ values).transpose(1, 2).flatten(2)
    return found @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]
