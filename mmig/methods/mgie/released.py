"""MGIE as its authors released it (apple/ml-mgie), written as an exported folder of ours.

    python -m mmig.methods.mgie convert-released --mllm mllm.pt --unet unet.pt --llava LLaVA-7B-v1
        --backbone timbrooks/instruct-pix2pix --out exported/mgie-7b

mllm.pt holds what was trained of the language model: both tables, the edit head, and `emb`, the embeddings e that the
head reads at inference (the null guidance is not stored: it is the head of 0 + e). unet.pt has diffusers' names. The
frozen rest is a LLaVA-7B of version 1, in the layout of its original code.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from mmig.backbones.diffusion import check_compatible, load_scheduler, load_vae
from mmig.backbones.files import new_folder, read_json
from mmig.backbones.hub import locate
from mmig.backbones.llm import load_llm_tokenizer
from mmig.backbones.named import Source
from mmig.backbones.original_llava import EMBEDDINGS, OUTPUT, read_original_llava
from mmig.backbones.parts import UNET, BackboneError
from mmig.backbones.weights import fill, read_weights, weight
from mmig.base.files import write_text
from mmig.base.paths import resolved
from mmig.methods.mgie.export import save_mgie
from mmig.methods.mgie.head import EditHead, HeadSize
from mmig.methods.mgie.pipeline import MGIEPipeline
from mmig.methods.mgie.writer import InstructionWriter, WriterConfig

logger = logging.getLogger(__name__)
PATCH, START, END = "<im_patch>", "<im_start>", "<im_end>"
NUM_IMAGE_TOKENS = 8
ADDED = (PATCH, START, END, *(f"[IMG{number}]" for number in range(NUM_IMAGE_TOKENS)))
"""Tokens behind LLaMA's own, in the order of the released rows: 32,000 to 32,010."""
PROMPT = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions. USER: what will this image be like if '{instruction}'\n"
    f"{START}{{image}}{END} ASSISTANT:"
)
"""What the released demo gives the language model to read: Vicuna 1.1's conversation around the question."""
ABOUT = """# {name}

{about}

Weights of apple/ml-mgie (CC-BY-NC for the differences that its authors trained; LLaMA, LLaVA and Stable Diffusion have
terms of their own), written in this layout by mmig."""
_HEAD = "edit_head."
_HEAD_NAMES = {"project_in": "llm2hid", "queries": "query", "transformer": "mapper", "project_out": "hid2feat"}
_TABLES = {EMBEDDINGS: "model.embed_tokens.weight", OUTPUT: "lm_head.weight"}


def convert_released(
    mllm: str | Path,
    unet: str | Path,
    llava: str | Path,
    backbone: str,
    out: str | Path,
    *,
    vision: Source | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> Path:
    """Write `out`, which evaluate.py and edit.py open; every number is that of its file.

    Args:
        mllm, unet: mllm.pt and unet.pt; no code in them is run.
        llava: folder of LLaVA-7B-v1 in the layout of its original code (LLaMA's weights and the delta added up).
        backbone: folder or hub id of a pipeline: autoencoder, scheduler, sizes of the UNet. The released demo takes
            timbrooks/instruct-pix2pix.
        out: a new folder.
        vision: see `read_original_llava`.
        dtype: in which the frozen language model will be opened; "float32" holds float16's numbers exactly.

    Raises:
        BackboneError: a missing, unreadable or unfitting file, or `out` exists.
    """
    mllm, unet, out = resolved(mllm), resolved(unet), resolved(out)
    with new_folder(out, "MGIE") as partial:
        state = read_weights(mllm)
        writer = _writer(state, mllm, llava, vision, dtype)
        head = _head(state, mllm)
        denoiser, vae = _unet(unet, backbone), load_vae(backbone)
        check_compatible(denoiser, vae=vae)
        _check_widths(writer, head, denoiser, mllm, unet)
        about = save_mgie(MGIEPipeline(vae, denoiser, load_scheduler(backbone), writer, head), partial)
        write_text(partial / "README.md", ABOUT.replace("{about}", about).replace("{name}", out.name) + "\n")
    return out


def _writer(
    state: Mapping[str, Tensor], file: Path, llava: str | Path, vision: Source | None, dtype: Any
) -> InstructionWriter:
    """The language model with the released tables, to be saved: it has no memory for what is computed."""
    from transformers import LlavaForConditionalGeneration

    tokenizer, base = load_llm_tokenizer(llava), read_original_llava(llava, vision)
    tokenizer.add_tokens([token for token in ADDED if token not in tokenizer.get_vocab()], special_tokens=True)
    weights = dict(base.state)
    for ours, theirs in _TABLES.items():
        weights[ours] = _table(weight(state, theirs, 2, file), theirs, weights.get(ours), tokenizer, file)
    base.config.text_config.vocab_size = len(weights[EMBEDDINGS])
    base.config.image_token_id = tokenizer.convert_tokens_to_ids(PATCH)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(base.config)
    fill(model.requires_grad_(False), weights, llava)
    config = WriterConfig(num_image_tokens=NUM_IMAGE_TOKENS, prompt=PROMPT, dtype=dtype)
    return InstructionWriter(model, tokenizer, base.statistics, config)


def _table(released: Tensor, name: str, base: Tensor | None, tokenizer: Any, file: Path) -> Tensor:
    """A table for this tokenizer: each token's released row, by its name; LLaVA's own for one that has none.

    Args:
        released: [rows,D], LLaMA's tokens by their numbers and then `ADDED`.
        name: of the released table, for errors.
        base: LLaVA's own, [rows,D].
        tokenizer: in which `ADDED` may stand in any order, and others among them.
        file: that holds the released ones, for errors.
    """
    vocabulary, added = tokenizer.get_vocab(), tokenizer.get_added_vocab()
    number = len(released) - len(ADDED)
    rows = {t: row for t, row in vocabulary.items() if t not in ADDED and (t not in added or row < number)}
    if sorted(rows.values()) != list(range(number)):
        raise BackboneError(
            f"{file}: {name} has {len(released)} rows, those of {len(ADDED)} added tokens among them, but LLaVA's "
            f"tokenizer has {len(rows)} others in place of {number}; give the LLaVA that belongs to it"
        )
    if base is not None and base.shape[1] != released.shape[1]:
        raise BackboneError(
            f"{file}: {name} is {released.shape[1]} wide, but LLaVA's is {base.shape[1]}; give the LLaVA that "
            "belongs to it"
        )
    rows |= {token: number + place for place, token in enumerate(ADDED)}
    table = released.new_zeros(max(vocabulary.values()) + 1, released.shape[1])
    if base is not None:
        table[: len(base)] = base[: len(table)]
    table[[vocabulary[token] for token in rows]] = released[list(rows.values())]
    return table


def _head(state: Mapping[str, Tensor], file: Path) -> EditHead:
    """The edit head, of the sizes that its weights have; they do not say how many heads its attention has: as many as
    published.
    """
    into, queries = weight(state, f"{_HEAD}llm2hid.weight", 2, file), weight(state, f"{_HEAD}query", 3, file)
    out = weight(state, f"{_HEAD}hid2feat.weight", 2, file)
    wide = weight(state, f"{_HEAD}mapper.encoder.layers.0.linear1.weight", 2, file)
    layers = {found[1] for name in state if (found := re.match(rf"{_HEAD}mapper\.encoder\.layers\.(\d+)\.", name))}
    embeddings = _own_embeddings(state, file)
    with torch.device("meta"):
        head = EditHead(
            into.shape[1],
            out.shape[0],
            dim=into.shape[0],
            num_queries=queries.shape[1],
            heads=HeadSize.heads,
            layers=len(layers),
            feed_forward=wide.shape[0],
            own_embeddings=len(embeddings),
        )
    left = {name: value for name, value in state.items() if name not in ("emb", *_TABLES.values())}
    if len(embeddings):
        left[_released_name("embeddings")] = embeddings
    return fill(head, left, file, _released_name)


def _released_name(name: str) -> str:
    """How mllm.pt calls a weight of the edit head."""
    first, dot, rest = name.partition(".")
    return f"{_HEAD}{_HEAD_NAMES.get(first, first)}{dot}{rest}"


def _own_embeddings(state: Mapping[str, Tensor], file: Path) -> Tensor:
    """`emb`, [n,D], where it is not what the table holds: the demo's head reads it and its language model the table.

    Nothing, [0,D], where they are equal, as one training leaves them, and where a file that somebody extracted from a
    training of the released code has none.
    """
    rows = state[_TABLES[EMBEDDINGS]][-NUM_IMAGE_TOKENS:]
    if "emb" not in state:
        return rows[:0]
    given = state["emb"]
    if given.shape not in (rows.shape, (1, *rows.shape)):
        raise BackboneError(f"{file}: emb: expected shape {tuple(rows.shape)}, found {tuple(given.shape)}")
    given = given.view_as(rows)
    apart = (given.float() - rows.float()).abs().max().item()
    if apart == 0:
        return rows[:0]
    logger.warning("%s: emb is up to %.3g away from the table's rows; the edit head keeps it as its own", file, apart)
    return given


def _unet(file: Path, backbone: str) -> UNet2DConditionModel:
    """The denoiser; its sizes are the pipeline's, its number of input channels the file's."""
    config = read_json(locate(backbone, replace(UNET, has_weights=False)) / "config.json")
    state = read_weights(file)
    channels = weight(state, "conv_in.weight", 4, file).shape[1]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config | {"in_channels": channels})
    return fill(unet, state, file)


def _check_widths(
    writer: InstructionWriter, head: EditHead, unet: UNet2DConditionModel, mllm: Path, unet_file: Path
) -> None:
    """Raise BackboneError where the edit head fits neither side of it, or the UNet takes no picture."""
    width, guidance = writer.llm.config.text_config.hidden_size, unet.config.cross_attention_dim
    if (head.config.in_dim, head.config.out_dim) != (width, guidance):
        raise BackboneError(
            f"{mllm}: the edit head makes {head.config.out_dim} numbers of {head.config.in_dim}, but the tables have "
            f"{width} and {unet_file} takes {guidance}; give files that belong together"
        )
    if unet.config.in_channels != 2 * unet.config.out_channels:
        raise BackboneError(
            f"{unet_file}: expected a conv_in of {2 * unet.config.out_channels} channels, which sees the picture too, "
            f"found {unet.config.in_channels}; give the released unet.pt"
        )
