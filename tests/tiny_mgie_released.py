"""A tiny MGIE with RANDOM weights as its authors released the whole one: mllm.pt, unet.pt, and what they stand on,
LLaVA-7B-v1 in the layout of its original code and the CLIP that it names.

    files = build_released(tmp_path)
    convert_released(files.mllm, files.unet, files.llava, build_stable_diffusion(tmp_path / "sd"), tmp_path / "out")

As released: float16; `model.embed_tokens`, `lm_head`, `edit_head.*` and `emb` in mllm.pt; LLaMA's tokens before
im_patch, im_start, im_end and [IMG0..7] in the rows; one linear layer behind the image tower; `NUM_PATCHES` a picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tests.tiny_fixtures import IMAGE_SIZE, TEXT_WIDTH, VISION_WIDTH, build_clip_vision, build_unet
from tests.tiny_saving import seeded, write_json
from tests.tiny_text import write_llama_tokenizer

WIDTH, DIM, NUM_QUERIES, NUM_LAYERS, CONTEXT = 16, 8, 7, 2, 640
NUM_PATCHES = (IMAGE_SIZE // 16) ** 2
MARKS = ("<im_patch>", "<im_start>", "<im_end>")
IMAGE_TOKENS = tuple(f"[IMG{number}]" for number in range(8))


class Released(NamedTuple):
    """Where the files are, and how many tokens LLaMA has."""

    mllm: Path
    unet: Path
    llava: Path
    clip: Path
    vocabulary: int


class ReleasedHead(nn.Module):
    """The edit head by the released names: torch's own transformer between two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.llm2hid = nn.Linear(WIDTH, DIM)
        self.query = nn.Parameter(torch.randn(1, NUM_QUERIES, DIM))
        self.mapper = nn.Transformer(DIM, 4, NUM_LAYERS, NUM_LAYERS, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.hid2feat = nn.Linear(DIM, TEXT_WIDTH)

    def forward(self, states: Tensor, embeddings: Tensor) -> Tensor:
        sums = self.llm2hid(states + embeddings)
        return self.hid2feat(self.mapper(sums, self.query.repeat(len(sums), 1, 1)))


def build_released(folder: Path, *, known: Sequence[str] = MARKS, seed: int = 0) -> Released:
    """Write all files.

    Args:
        folder: that gets them.
        known: tokens that LLaVA's tokenizer has behind LLaMA's, in this order.
        seed: of the weights; the same ones on any machine.
    """
    clip = build_clip_vision(folder / "clip", seed=seed)
    llava, vocabulary = _build_llava(folder / "LLaVA-7B-v1", clip, known, seed)
    with seeded(seed + 1):
        head, rows = ReleasedHead(), vocabulary + len(MARKS) + len(IMAGE_TOKENS)
        tables = {name: torch.randn(rows, WIDTH) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    mllm = tables | {f"edit_head.{name}": value for name, value in head.state_dict().items()}
    mllm["emb"] = tables["model.embed_tokens.weight"][-len(IMAGE_TOKENS) :].clone()
    torch.save({name: value.half() for name, value in mllm.items()}, folder / "mllm.pt")
    torch.save(_unet(folder / "editing", seed), folder / "unet.pt")
    return Released(folder / "mllm.pt", folder / "unet.pt", llava, clip, vocabulary)


def _build_llava(folder: Path, clip: Path, known: Sequence[str], seed: int) -> tuple[Path, int]:
    """LLaMA's names, the projector's, and the buffers that LLaMA then stored, in two files with an index."""
    from transformers import AutoTokenizer, LlamaForCausalLM

    vocabulary = write_llama_tokenizer(folder)
    if known:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.add_tokens(list(known), special_tokens=True)
        tokenizer.save_pretrained(folder)
    with seeded(seed):
        llama = LlamaForCausalLM(llama_config(vocabulary + len(known)))
        projector = nn.Linear(VISION_WIDTH, WIDTH)
    state = {name: 4 * value for name, value in llama.state_dict().items()}  # large enough that texts matter
    state |= {f"model.mm_projector.{name}": value for name, value in projector.state_dict().items()}
    state |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(4) for layer in range(NUM_LAYERS)}
    files, places = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"), {}
    for number, file in enumerate(files):
        part = {name: value.half() for place, (name, value) in enumerate(state.items()) if place % 2 == number}
        places |= dict.fromkeys(part, file)
        torch.save(part, folder / file)
    write_json(folder / "pytorch_model.bin.index.json", {"metadata": {}, "weight_map": places})
    write_json(folder / "config.json", _settings(clip, vocabulary + len(known)))
    return folder, vocabulary


def llama_config(vocabulary: int) -> Any:
    """Of the language model."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-5,
    )


def _settings(clip: Path, vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": NUM_LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "mm_hidden_size": VISION_WIDTH,
        "mm_use_im_start_end": True,
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(clip),
        "use_mm_proj": True,
        "vocab_size": vocabulary,
    }


def _unet(folder: Path, seed: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    build_unet(folder, in_channels=8, seed=seed + 2)
    return {name: value.half() for name, value in load_file(folder / "diffusion_pytorch_model.safetensors").items()}
