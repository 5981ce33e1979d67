"""ImageBind's published file (imagebind_huge.pth), written anew as a folder that `load_imagebind` opens.

Every weight of its pictures, texts and sounds has a name in both layouts, and one that has none is an error. Left out
are, by their names, the towers of depth, heat and movement, which no method here reads.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from mmig.backbones.diffusion import load_tokenizer
from mmig.backbones.files import new_folder
from mmig.backbones.loading import refuse_wrong
from mmig.backbones.named import Source
from mmig.backbones.parts import BackboneError
from mmig.backbones.weights import fill, read_weights, weight
from mmig.base.paths import resolved

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from mmig.backbones.imagebind_model import ImageBindConfig

logger = logging.getLogger(__name__)
MODALITIES = ("vision", "text", "audio")
HEAD_WIDTHS = {"vision": 80, "text": 64, "audio": 64}
"""Of the published attentions: the one size that no weight tells."""
_LEFT_OUT = re.compile(r"modality_(preprocessors|trunks|heads|postprocessors)\.(depth|thermal|imu)\..*")
_MASK = "modality_preprocessors.text.mask"
_VISION, _TEXT = "vision.tower.vision_model", "text.text_model"
_ADVICE = "give imagebind_huge.pth as it was published"


class Published(NamedTuple):
    """Where a weight of ours lies in the published file.

    Attributes:
        name: there.
        take: makes ours of it.
    """

    name: str
    take: Callable[[Tensor], Tensor] = lambda value: value


def convert_imagebind(file: str | Path, tokenizer: Source, out: str | Path) -> Path:
    """Write `out`: config.json, model.safetensors in the precision of the file, tokenizer.

    Args:
        file: imagebind_huge.pth, or another of its layout; no code in it is run. Sizes are those of its weights.
        tokenizer: folder or hub id of CLIP's tokenizer, such as openai/clip-vit-large-patch14.
        out: a new folder.

    Raises:
        BackboneError: an unreadable file, a weight that is missing, unknown or of another shape, a tokenizer of another
            vocabulary, or `out` exists.
    """
    from mmig.backbones.imagebind_model import ImageBindModel

    file, out = resolved(file), resolved(out)
    with new_folder(out, f"ImageBind: weights of {file.name}.") as partial:
        state, words = read_weights(file), load_tokenizer(tokenizer)
        config = read_sizes(state, words, file)
        table = published_names(config)
        _check_names(state, table, file)
        with torch.device("meta"):
            model = ImageBindModel(config)
        taken = {ours: place.take(state[place.name]).contiguous() for ours, place in table.items()}
        fill(model.requires_grad_(False), taken, file)
        model.save_pretrained(partial)
        for weights in partial.glob("*.safetensors"):
            weights.chmod(0o644)  # safetensors would hide it from others
        words.save_pretrained(partial)
    return out


def read_sizes(state: Mapping[str, Tensor], tokenizer: "CLIPTokenizer", file: Path) -> "ImageBindConfig":
    """The configuration of a file's towers, by the shapes of its weights.

    Raises:
        BackboneError: a weight that tells a size is missing, or a size that does not fit.
    """
    from mmig.backbones.imagebind_model import ImageBindConfig

    stem = weight(state, "modality_preprocessors.vision.rgbt_stem.proj.1.weight", 5, file)
    places = weight(state, "modality_preprocessors.vision.pos_embedding_helper.pos_embed", 3, file)
    side = round((places.shape[1] - 1) ** 0.5)
    tokens = weight(state, "modality_preprocessors.text.token_embedding.weight", 2, file)
    if len(tokenizer) != len(tokens):
        raise BackboneError(
            f"{file}: expected a tokenizer of {len(tokens)} entries, found one of {len(tokenizer)}; give CLIP's, such "
            "as openai/clip-vit-large-patch14"
        )
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    length = weight(state, "modality_preprocessors.text.pos_embed", 3, file).shape[1]
    patches = weight(state, "modality_preprocessors.audio.rgbt_stem.proj.weight", 4, file)
    own: dict[str, dict[str, Any]] = {
        "vision": {"patch_size": stem.shape[-1], "image_size": side * stem.shape[-1]},
        "text": {"vocab_size": len(tokens), "max_position_embeddings": length, **ids},
        "audio": {"patch_size": patches.shape[-1]},
    }
    sizes = {f"{name}_config": own[name] | _transformer_sizes(state, name, file) for name in MODALITIES}
    try:
        return ImageBindConfig(**sizes)
    except ValueError as error:
        raise BackboneError(f"{file}: {' '.join(str(error).split())}; {_ADVICE}") from error


def _transformer_sizes(state: Mapping[str, Tensor], modality: str, file: Path) -> dict[str, Any]:
    trunk = f"modality_trunks.{modality}.blocks."
    first = weight(state, f"{trunk}0.mlp.fc1.weight", 2, file)
    head = "modality_heads.text.proj.1" if modality == "text" else f"modality_heads.{modality}.2"
    numbers = (re.match(rf"{re.escape(trunk)}(\d+)\.", name) for name in state)
    width, head_width = first.shape[1], HEAD_WIDTHS[modality]
    if width % head_width:
        raise BackboneError(f"{file}: {modality}: expected heads of {head_width}, found a width of {width}; {_ADVICE}")
    return {
        "hidden_size": width,
        "intermediate_size": len(first),
        "num_hidden_layers": 1 + max(int(found[1]) for found in numbers if found),
        "num_attention_heads": width // head_width,
        "projection_dim": len(weight(state, f"{head}.weight", 2, file)),
    }


def published_names(config: "ImageBindConfig") -> dict[str, Published]:
    """The published place of every weight of `ImageBindModel`, by our name."""
    layers = {name: getattr(config, f"{name}_config").num_hidden_layers for name in MODALITIES}
    pictures, words, sounds = (f"modality_preprocessors.{name}" for name in MODALITIES)
    squeezed = Tensor.squeeze
    table = {
        f"{_VISION}.embeddings.class_embedding": Published(f"{pictures}.cls_token", squeezed),
        # one picture is two equal frames of a film
        f"{_VISION}.embeddings.patch_embedding.weight": Published(
            f"{pictures}.rgbt_stem.proj.1.weight", lambda kernel: kernel.sum(dim=2)
        ),
        f"{_VISION}.embeddings.position_embedding.weight": Published(
            f"{pictures}.pos_embedding_helper.pos_embed", squeezed
        ),
        "vision.tower.visual_projection.weight": Published("modality_heads.vision.2.weight"),
        f"{_TEXT}.embeddings.token_embedding.weight": Published(f"{words}.token_embedding.weight"),
        f"{_TEXT}.embeddings.position_embedding.weight": Published(f"{words}.pos_embed", squeezed),
        "text.text_projection.weight": Published("modality_heads.text.proj.1.weight"),
        "text_log_scale": Published("modality_postprocessors.text.1.log_logit_scale", squeezed),
        "audio.class_token": Published(f"{sounds}.cls_token"),
        "audio.patches.weight": Published(f"{sounds}.rgbt_stem.proj.weight"),
        "audio.positions": Published(f"{sounds}.pos_embedding_helper.pos_embed"),
        "audio.projection.weight": Published("modality_heads.audio.2.weight"),
        "audio_log_scale": Published("modality_postprocessors.audio.1.log_logit_scale", squeezed),
    }
    norms = {
        f"{_VISION}.pre_layrnorm": "modality_trunks.vision.pre_transformer_layer.0",
        f"{_VISION}.post_layernorm": "modality_heads.vision.0",
        f"{_TEXT}.final_layer_norm": "modality_heads.text.proj.0",
        "audio.patch_norm": f"{sounds}.rgbt_stem.norm_layer",
        "audio.norm": "modality_heads.audio.0",
    }
    table |= dict(_pairs(norms))
    for modality, tower in (("vision", _VISION), ("text", _TEXT)):
        for layer in range(layers[modality]):
            table |= dict(_clip_block(f"{tower}.encoder.layers.{layer}", f"modality_trunks.{modality}.blocks.{layer}"))
    for layer in range(layers["audio"]):
        table |= dict(_audio_block(f"audio.blocks.{layer}", f"modality_trunks.audio.blocks.{layer}"))
    return table


def _pairs(names: Mapping[str, str]) -> Iterator[tuple[str, Published]]:
    for ours, theirs in names.items():
        for kind in ("weight", "bias"):
            yield f"{ours}.{kind}", Published(f"{theirs}.{kind}")


def _clip_block(ours: str, theirs: str) -> Iterator[tuple[str, Published]]:
    """A block of transformers' CLIP, which keeps query, key and value apart."""
    for number, part in enumerate("qkv"):
        for kind in ("weight", "bias"):
            place = Published(f"{theirs}.attn.in_proj_{kind}", lambda value, number=number: value.chunk(3)[number])
            yield f"{ours}.self_attn.{part}_proj.{kind}", place
    names = {"self_attn.out_proj": "attn.out_proj", "layer_norm1": "norm_1", "layer_norm2": "norm_2"}
    names |= {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
    yield from _pairs({f"{ours}.{our}": f"{theirs}.{their}" for our, their in names.items()})


def _audio_block(ours: str, theirs: str) -> Iterator[tuple[str, Published]]:
    for name in ("in_proj_weight", "in_proj_bias", "bias_k", "bias_v"):
        yield f"{ours}.attention.{name}", Published(f"{theirs}.attn.{name}")
    names = {"attention.out_proj": "attn.out_proj", "norm_1": "norm_1", "norm_2": "norm_2"}
    names |= {"fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    yield from _pairs({f"{ours}.{our}": f"{theirs}.{their}" for our, their in names.items()})


def _check_names(state: Mapping[str, Tensor], table: Mapping[str, Published], file: Path) -> None:
    """Refuse a file that holds not all of the table's names, or others; the mask of texts must be the causal one."""
    expected = {place.name for place in table.values()}
    left_out = {name for name in state if _LEFT_OUT.fullmatch(name)}
    wrong = {
        "missing": sorted(expected - state.keys()),
        "unexpected": sorted(state.keys() - expected - left_out - {_MASK}),
    }
    refuse_wrong(wrong, str(file), "the weights of ImageBind's vision, text and audio towers", _ADVICE)
    if left_out:
        logger.info("%s: %d weights of depth, heat and movement are left out", file, len(left_out))
    if _MASK in state:
        mask = state[_MASK]
        causal = torch.full_like(mask, -torch.inf).triu(1)
        if not torch.equal(mask, causal):
            raise BackboneError(f"{file}: {_MASK}: expected the causal mask, found another; {_ADVICE}")
