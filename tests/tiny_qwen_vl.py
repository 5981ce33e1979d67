"""A tiny Qwen2-VL, Qwen2.5-VL or Qwen3-VL with RANDOM weights in the published layout: multimodal LLMs unlike LLaVA in
all that a user of both can trip over.

Pictures of any size, as many tokens for each as it has patches; places with three coordinates; a chat template of
control tokens that keeps the order of text and picture; two end tokens, no start token; byte-level BPE. Qwen2.5-VL's
tower looks through windows, Qwen3-VL's gives features to the first layers of the decoder too.
"""

from pathlib import Path
from typing import Any, Literal

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
Kind = Literal["Qwen2", "Qwen2_5_", "Qwen3"]
KINDS: tuple[Kind, ...] = ("Qwen2", "Qwen2_5_", "Qwen3")


def build_qwen_vl(folder: Path, kind: Kind = "Qwen2", *, tied: bool = False, spare: int = 0, seed: int = 0) -> Path:
    """Write a Qwen2VLForConditionalGeneration or a successor, its tokenizer, processor and chat template.

    Args:
        folder: that gets them, and is returned.
        kind: which.
        tied: whether both tables are one, as in the smaller published ones.
        spare: rows of the tables that no token uses.
        seed: of the weights.
    """
    import transformers
    from tokenizers import processors
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    write_llama_tokenizer(folder, "bytelevel")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([TURN, END, STOP, START, IMAGE, VIDEO, BEHIND], special_tokens=True)
    tokenizer.eos_token, tokenizer.pad_token, tokenizer.bos_token = END, STOP, None
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    side = 2 * PATCH  # two by two patches become one token
    limits = {"shortest_edge": side**2, "longest_edge": 16 * side**2}
    images = transformers.Qwen2VLImageProcessor(size=limits, patch_size=PATCH)
    films = Qwen3VLVideoProcessor() if kind == "Qwen3" else Qwen2VLVideoProcessor()
    processor = getattr(transformers, f"{kind}VLProcessor")
    processor(images, tokenizer, films, chat_template=CHAT_TEMPLATE).save_pretrained(folder)
    with seeded(seed):
        model = getattr(transformers, f"{kind}VLForConditionalGeneration")(_config(tokenizer, kind, tied, spare))
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids([END, STOP])
    return save(model, folder, torch.float32)


def _config(tokenizer: Any, kind: Kind, tied: bool, spare: int) -> Any:
    import transformers

    numbers = tokenizer.convert_tokens_to_ids
    text = {
        "vocab_size": len(tokenizer) + spare,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
        "eos_token_id": numbers(END),
        "pad_token_id": numbers(STOP),
        "head_dim": WIDTH // 2,
    }
    vision = {"depth": 2, "hidden_size": WIDTH, "num_heads": 2, "patch_size": PATCH} | _vision(kind)
    return getattr(transformers, f"{kind}VLConfig")(
        text_config=text,
        vision_config=vision,
        image_token_id=numbers(IMAGE),
        video_token_id=numbers(VIDEO),
        vision_start_token_id=numbers(START),
        vision_end_token_id=numbers(BEHIND),
        tie_word_embeddings=tied,
    )


def _vision(kind: Kind) -> dict[str, Any]:
    """What one tower has and another does not."""
    if kind == "Qwen2":
        return {"embed_dim": WIDTH, "mlp_ratio": 2}
    own = {"out_hidden_size": WIDTH, "intermediate_size": 2 * WIDTH}
    if kind == "Qwen2_5_":
        return own | {"window_size": 4 * PATCH, "fullatt_block_indexes": [1]}
    return own | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
