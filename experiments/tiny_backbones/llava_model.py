"""The tiny LLaVA: a `LlavaForConditionalGeneration` for LLaMA's tiny vocabulary, its tokenizer and its chat template.

What is trained with which loss is in `llava.py`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaTokenizer, LlavaForConditionalGeneration, LlavaProcessor

IMAGE_TOKEN, PAD_TOKEN = "<image>", "<pad>"
"""Behind LLaMA's entries, as LLaVA 1.5 has them."""
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'] | upper }}: "
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{{ ' ' if loop.last else '\n' }}"
    "{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""LLaVA 1.5's, but that text and picture stand in the order in which a message has them: MGIE's picture comes last."""


@dataclass
class LlavaSize:
    """Widths of the three parts.

    Attributes:
        image_size, patch_size: pixels.
        vision_width, vision_layers, vision_feed_forward: image tower, whose last layer is not read.
        text_width, text_layers, text_feed_forward: language model, which has one table for input and output.
        head_width: of both parts' attention.
        max_positions: tokens that the language model reads, those of the picture among them.
    """

    image_size: int = 64
    patch_size: int = 8
    vision_width: int = 96
    vision_layers: int = 5
    vision_feed_forward: int = 192
    text_width: int = 128
    text_layers: int = 6
    text_feed_forward: int = 160
    head_width: int = 32
    max_positions: int = 512

    @property
    def num_patches(self) -> int:
        """Tokens of a picture."""
        return (self.image_size // self.patch_size) ** 2


def llava_tokenizer(llama: str | Path) -> "LlamaTokenizer":
    """The tokenizer of a LLaMA-like folder with LLaVA's two tokens behind its entries; it pads on the left."""
    from transformers import LlamaTokenizer

    tokenizer = LlamaTokenizer.from_pretrained(llama, padding_side="left")
    tokenizer.add_tokens([IMAGE_TOKEN, PAD_TOKEN], special_tokens=True)
    tokenizer.pad_token = PAD_TOKEN
    return tokenizer


def build_llava(size: LlavaSize, tokenizer: "LlamaTokenizer") -> "LlavaForConditionalGeneration":
    """A randomly initialised LLaVA of this size for this vocabulary, without dropout."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=size.vision_width,
        intermediate_size=size.vision_feed_forward,
        projection_dim=size.vision_width,
        num_hidden_layers=size.vision_layers,
        num_attention_heads=size.vision_width // size.head_width,
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_act="gelu",
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.text_width,
        intermediate_size=size.text_feed_forward,
        num_hidden_layers=size.text_layers,
        num_attention_heads=size.text_width // size.head_width,
        max_position_embeddings=size.max_positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        image_seq_length=size.num_patches,
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-2,
        tie_word_embeddings=True,
    )
    return LlavaForConditionalGeneration(config)


def llava_processor(size: LlavaSize, tokenizer: "LlamaTokenizer") -> "LlavaProcessor":
    """Image processor (CLIP's normalisation, no crop of square pictures), tokenizer and chat template."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    return LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": size.image_size}, crop_size=size.image_size),
        tokenizer,
        patch_size=size.patch_size,
        vision_feature_select_strategy="default",
        chat_template=CHAT_TEMPLATE,
        num_additional_image_tokens=1,  # the class token, which the strategy leaves out again
    )
