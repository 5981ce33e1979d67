"""A tiny LLaVA with RANDOM weights in the published layout of llava-hf/llava-1.5-7b-hf: it answers any picture and any
question, with words that mean nothing.

    from tests.tiny_llava import build_llava
    folder = build_llava(tmp_path / "llava")
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)

As published: a CLIP tower whose last block but one is read, without its class token; a projector of two layers; a
LLaMA; `<image>` and `<pad>` behind LLaMA's tokens, `<image>` once a patch (`NUM_PATCHES` times); a processor that puts
them there; LLaVA 1.5's chat template (`USER: <image>`, a line break, the text, `ASSISTANT:`), its end token `</s>`.
Sizes are in the constants below; 42,000 parameters in 180 kB.
"""

from pathlib import Path

import torch

from tests.tiny_saving import IMAGE_SIZE, save, seeded
from tests.tiny_text import write_llama_tokenizer

PATCH_SIZE = 16
NUM_PATCHES = (IMAGE_SIZE // PATCH_SIZE) ** 2
WIDTH, VISION_WIDTH, NUM_LAYERS, NUM_VISION_LAYERS, NUM_HEADS = 16, 16, 2, 3, 2
CONTEXT = 512
"""Tokens that its language model reads, those of the picture among them."""
IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | upper }}: "
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }} {% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Pictures stand before the text, wherever a message has them."""


def build_llava(
    folder: Path,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    context: int = CONTEXT,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a LlavaForConditionalGeneration, its tokenizer, image processor, processor and chat template.

    Args:
        folder: that gets the files of the hub repository, and is returned.
        chat_template: None for a model that was never taught to chat.
        context: `max_position_embeddings` of the language model.
        seed: of the weights; the same ones on any machine.
        dtype: in which they are stored.
    """
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaForConditionalGeneration, LlavaProcessor

    write_llama_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        folder, padding_side="left", pad_token=PAD_TOKEN, model_max_length=context
    )
    tokenizer.add_tokens([IMAGE_TOKEN], special_tokens=True)
    LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": IMAGE_SIZE}, crop_size=IMAGE_SIZE),
        tokenizer,
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        chat_template=chat_template,
        num_additional_image_tokens=1,  # the class token, which the strategy leaves out again
    ).save_pretrained(folder)
    with seeded(seed):
        model = LlavaForConditionalGeneration(_config(tokenizer, context))
    return save(model, folder, dtype)


def _config(tokenizer: object, context: int) -> object:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision = CLIPVisionConfig(
        hidden_size=VISION_WIDTH,
        intermediate_size=2 * VISION_WIDTH,
        projection_dim=VISION_WIDTH,
        num_hidden_layers=NUM_VISION_LAYERS,
        num_attention_heads=NUM_HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        max_position_embeddings=context,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
    )
