"""Training of the tiny language model: from a description of the source image and an instruction to the response.

A plain `LlamaForCausalLM`; the prompt format is in `prompt.py`, export and score in files of those names.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datamodules.schema import Batch
from experiments.tiny_backbones.prompt import encode, format_prompt, padded_rows
from mmig.language.token_loss import token_loss
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import LossTerm

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, LlamaTokenizer


@dataclass
class LanguageSize:
    """Widths of the language model (names as in `LlamaConfig`)."""

    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    max_position_embeddings: int = 512


def build_language_model(size: LanguageSize, tokenizer: "LlamaTokenizer") -> "LlamaForCausalLM":
    """A randomly initialised LLaMA of this size for this vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=size.hidden_size,
        intermediate_size=size.intermediate_size,
        num_hidden_layers=size.num_hidden_layers,
        num_attention_heads=size.num_attention_heads,
        max_position_embeddings=size.max_position_embeddings,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    return LlamaForCausalLM(config)


class LanguageModule(TrainingModule):
    """Trains the language model from scratch; loss on answer and end of sequence only.

    Args:
        optimizer, loss_weights, seed, micro_batch_size: see `TrainingModule`; the one term is "response".
        tokenizer: folder of the LLaMA-like tokenizer.
        size: widths.
        caption_dropout: how often the description of the source image is left out of the prompt, because stage 1 of
            MMIG shows the language model the instruction alone.
    """

    def __init__(
        self,
        optimizer: OptimizerConfig,
        loss_weights: dict[str, float],
        tokenizer: str,
        size: LanguageSize | None = None,
        caption_dropout: float = 0.25,
        seed: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__(optimizer, loss_weights, seed, micro_batch_size)
        from transformers import LlamaTokenizer

        self.tokenizer: LlamaTokenizer = LlamaTokenizer.from_pretrained(tokenizer)
        self.caption_dropout = caption_dropout
        torch.manual_seed(seed)
        self.language_model = build_language_model(size or LanguageSize(), self.tokenizer)

    def losses(self, batch: Batch, draws: Draws) -> dict[str, LossTerm]:
        """Mean cross-entropy of each sample's answer tokens, end of sequence included, where it has an instruction."""
        hidden = draws.bernoulli("caption", self.caption_dropout).tolist()
        captions = ["" if hide else text for hide, text in zip(hidden, batch["source_caption"], strict=True)]
        rows = zip(batch["instruction"], captions, batch["response"], strict=True)
        pairs = [encode(self.tokenizer, format_prompt(order, caption), answer) for order, caption, answer in rows]
        lengths = torch.tensor([float(len(answer)) for _, answer in pairs], device=self.device)
        present = (batch["has_instruction"] & batch["has_response"]).to(self.device)
        return {"response": LossTerm(lengths * present, lambda: self._token_losses(pairs))}

    def _token_losses(self, pairs: list[tuple[list[int], list[int]]]) -> Tensor:
        ids, mask, labels = (x.to(self.device) for x in padded_rows(pairs, self.tokenizer.pad_token_id))
        logits = self.language_model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        return token_loss(logits[:, :-1], labels[:, 1:]).values
