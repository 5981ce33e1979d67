"""Tiny random LLMs, towers and a multimodal LLM of them, in memory; weights large enough that texts matter."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mmig.backbones.llm import load_llm_tokenizer
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.multimodal import MultimodalLLM
from tests.tiny_text import write_llama_tokenizer

WIDTH, LAYERS, VISION_WIDTH, BLOCKS, SIZE = 32, 3, 24, 7, 16
VOCABULARY = 2000
INSTRUCTIONS = ["make the star red", "remove the large blue square.", "night"]
RESPONSES = ["the star is red.", "the blue square is gone and the background is green.", "a picture with fog"]
HAS_IMAGE = torch.tensor([True, False, True])


def tokenizer():
    """A new LLaMA tokenizer; callers may add tokens to it."""
    with TemporaryDirectory() as folder:
        write_llama_tokenizer(Path(folder), "metaspace")
        return load_llm_tokenizer(folder)


@cache
def shared_tokenizer():
    """The same for those that leave it as it is."""
    return tokenizer()


def llm(kind="llama", seed=0, **options):
    """A frozen causal LM in eval mode: "llama" (grouped keys), "qwen2" (biases of q, k, v), "qwen3" (tied, norms)."""
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": kind == "qwen3",
    }
    torch.manual_seed(seed)
    if kind == "llama":
        model = LlamaForCausalLM(LlamaConfig(**sizes | options))
    elif kind == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**sizes | options))
        for layer in model.model.layers:  # fresh biases are zero
            torch.nn.init.normal_(layer.self_attn.q_proj.bias)
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**sizes | {"head_dim": 8} | options))
    return model.requires_grad_(False).eval()


def vision(seed=1):
    """A frozen CLIP tower of seven blocks in eval mode."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(seed)
    sizes = {"hidden_size": VISION_WIDTH, "intermediate_size": 32, "num_hidden_layers": BLOCKS}
    config = CLIPVisionConfig(**sizes, num_attention_heads=2, image_size=SIZE, patch_size=8, initializer_factor=3.0)
    return CLIPVisionModel(config).requires_grad_(False).eval()


def randomise(module, seed=2, scale=0.1):
    """Move every parameter of the adapters off its start, where the adapters do nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)


def mllm(kind="llama", *, with_vision=True, fresh=False, **config):
    """A multimodal LLM without dropout; `fresh` leaves the adapters at their start."""
    config = MultimodalConfig(**{"dropout": 0.0, "rank": 4, "projector_dim": 10, "temperature": 1.0} | config)
    torch.manual_seed(3)
    model = MultimodalLLM(llm(kind), shared_tokenizer(), vision() if with_vision else None, config)
    if not fresh:
        randomise(model.adapters)
    return model


def images(seed=4, count=3, side=20):
    """Images [count,3,side,side] in [-1,1]."""
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def prompt_by_hand(model, instruction, image):
    """Input embeddings [P,D] of one sample's prompt, put together by hand; without image: None."""
    embed, tokenizer = model.llm.get_input_embeddings(), model.tokenizer

    def embeddings(text, *before):
        return embed(torch.tensor([*before, *tokenizer(text, add_special_tokens=False)["input_ids"]]))

    if image is None:
        return embeddings(f"Image: N/A\nInstruction: {instruction}\nResponse:", tokenizer.bos_token_id)
    visual = model.visual_tokens(image[None], torch.tensor([True]))[0]
    start = embeddings("Image: ", tokenizer.bos_token_id)
    return torch.cat([start, visual, embeddings(f"\nInstruction: {instruction}\nResponse:")])


def routing_by_hand(model, image):
    """Mixture weights [1,layers,2] of one sample, routed by its modality's embedding."""
    modality = model.adapters["modality"].weight[0 if image is None else 1]
    pairs = [torch.softmax(a.router(modality) / a.temperature, dim=-1) for a in model.adapters["llm"]]
    return torch.stack(pairs)[None]
