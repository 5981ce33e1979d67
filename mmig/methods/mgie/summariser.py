"""Shortens a text with a sequence-to-sequence model of transformers (T5, BART), as MGIE's targets were.

Prompt and search are those of the data preparation that MGIE (Fu et al. 2024) was released with (apple/ml-mgie,
process_data). Texts come one by one, so that none depends on those beside it.
"""

import logging
from pathlib import Path
from typing import Any

import torch

from mmig.backbones.files import check_kind
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import BackboneError, Part
from mmig.base.texts import CutText

SUMMARISER = Part("summariser", "")
SUMMARISER_TOKENIZER = Part(
    "summariser_tokenizer",
    "",
    (("tokenizer.json",), ("spiece.model",), ("vocab.json", "merges.txt")),
    has_weights=False,
)
PROMPT = "summarize the following paragraph in 32 words:"
"""The text follows it at once."""
MAX_TOKENS = 64
"""Of a summary; the decoder's start token is one of them."""
SEARCH = {"num_beams": 5, "min_length": 5, "no_repeat_ngram_size": 3, "do_sample": False}
"""What is not said here (a length penalty) is as the checkpoint has it, as in the original's pipeline."""
logger = logging.getLogger(__name__)


class Summariser:
    """Shortens texts.

    Args:
        model: `AutoModelForSeq2SeqLM`, frozen, on its device.
        tokenizer: its tokenizer.
        prompt: that stands directly before a text.
        max_tokens: of a summary.
    """

    def __init__(self, model: Any, tokenizer: Any, prompt: str = PROMPT, max_tokens: int = MAX_TOKENS) -> None:
        self.model, self.tokenizer, self.prompt, self.max_tokens = model, tokenizer, prompt, max_tokens
        # T5 reads texts of any length; of others the embeddings of places are a table
        self._room: int | None = getattr(model.config, "max_position_embeddings", None)

    @torch.no_grad()
    def __call__(self, text: str) -> str:
        """The text in fewer words; what the model cannot read of it is cut, with a line in the log."""
        inputs = self.tokenizer(self.prompt + text, return_tensors="pt")
        length = inputs["input_ids"].shape[1]
        if self._room is not None and length > self._room:
            logger.warning("%s", CutText("expressive", "summariser", length, self._room))
            inputs = self.tokenizer(self.prompt + text, return_tensors="pt", truncation=True, max_length=self._room)
        ids = self.model.generate(
            input_ids=inputs["input_ids"].to(self.model.device),
            attention_mask=inputs["attention_mask"].to(self.model.device),
            max_length=self.max_tokens,
            **SEARCH,
        )
        return " ".join(self.tokenizer.decode(ids[0], skip_special_tokens=True).split())


def summariser_folder(path: Source) -> Path:
    """The folder of a summariser, fetched if it must be.

    Raises:
        BackboneError: a missing file, or a model that does not make one text of another.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES as KINDS

    folder = locate(path, SUMMARISER)
    check_kind(folder / "config.json", "model_type", KINDS, "a sequence-to-sequence model's, such as t5")
    return folder


def load_summariser(path: Source, prompt: str, max_tokens: int, dtype: str, device: torch.device) -> Summariser:
    """A summariser from a folder or hub id.

    Args:
        path: with model and tokenizer.
        prompt, max_tokens: see `Summariser`.
        dtype: name of the precision; T5 overflows in float16.
        device: that computes.

    Raises:
        BackboneError: a missing or broken file, or a model that does not make one text of another.
    """
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    folder, texts = summariser_folder(path), locate(path, SUMMARISER_TOKENIZER)
    try:
        tokenizer = AutoTokenizer.from_pretrained(texts, local_files_only=True)
    except Exception as error:  # json, tokenizers' Rust errors, OSError
        raise BackboneError(f"{texts}: cannot be read as a tokenizer: {error}; fetch it again") from error
    model = load_strictly(AutoModelForSeq2SeqLM, folder, dtype)
    model = prepare(model, frozen=True, gradient_checkpointing=False).to(device)
    return Summariser(model, tokenizer, prompt, max_tokens)
