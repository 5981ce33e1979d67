"""A tiny Qwen2-VL with RANDOM weights in the published layout: a multimodal LLM unlike LLaVA in all that a user of both
can trip over.

Pictures of any size, as many tokens for each as it has patches; places with three coordinates; a chat template of
control tokens that keeps the order of text and picture; two end tokens; byte-level BPE.
"""

from pathlib import Path
from typing import Any

import torch

from tests.tiny_saving import save, seeded
from tests.tiny_text import write_llama_tokenizer

TURN, END, STOP = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
START, IMAGE, VIDEO, BEHIND = "<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{TURN}{{{{ message['role'] }}}}\n"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}" + START + IMAGE + BEHIND + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + TURN + "assistant\n{% endif %}"
)
PATCH, WIDTH = 14, 16


def build_qwen_vl(folder: Path, *, seed: int = 0) -> Path:
    """Write a Qwen2VLForConditionalGeneration, its tokenizer, processor and chat template into a folder."""
    from transformers import AutoTokenizer, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessor, Qwen2VLProcessor
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    write_llama_tokenizer(folder, "bytelevel")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([TURN, END, STOP, START, IMAGE, VIDEO, BEHIND], special_tokens=True)
    tokenizer.eos_token, tokenizer.pad_token = END, STOP
    side = 2 * PATCH  # two by two patches become one token
    images = Qwen2VLImageProcessor(min_pixels=side**2, max_pixels=16 * side**2)
    Qwen2VLProcessor(images, tokenizer, Qwen2VLVideoProcessor(), chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    with seeded(seed):
        model = Qwen2VLForConditionalGeneration(_config(tokenizer))
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids([END, STOP])
    return save(model, folder, torch.float32)


def _config(tokenizer: Any) -> Any:
    from transformers import Qwen2VLConfig

    numbers = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        "eos_token_id": numbers(END),
        "pad_token_id": numbers(STOP),
    }
    vision = {"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2, "patch_size": PATCH}
    return Qwen2VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=numbers(IMAGE),
        video_token_id=numbers(VIDEO),
        vision_start_token_id=numbers(START),
        vision_end_token_id=numbers(BEHIND),
    )
