"""The causal language model (LLaMA-shaped) and its tokenizer."""

from typing import TYPE_CHECKING, Any, Literal

import torch

from mmig.backbones.files import check_kind
from mmig.backbones.hub import locate
from mmig.backbones.loading import as_dtype, load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import LLM, LLM_TOKENIZER, BackboneError
from mmig.backbones.quantised import bitsandbytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

Quantisation = Literal["none", "4bit"]


def load_llm(
    path: Source,
    *,
    dtype: torch.dtype | str = torch.float32,
    frozen: bool = True,
    gradient_checkpointing: bool = False,
    quantise: Quantisation = "none",
) -> "PreTrainedModel":
    """A causal language model: ids int64 [B,L] -> logits [B,L,V] and hidden states [B,L,D].

    Frozen with gradient checkpointing it stays in train() mode with all dropouts 0 (`loading.prepare`); call eval()
    for `generate`.

    Args:
        quantise: "4bit" keeps matrices in 4 bits (Dettmers et al. 2023, NF4 with scales quantised too) and computes in
            `dtype`; for frozen models.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
        MissingLibraryError: 4 bits without bitsandbytes or without a GPU.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folder = locate(path, LLM)
    check_kind(
        folder / "config.json",
        "model_type",
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "a causal language model's, such as llama",
    )
    options = {} if quantise == "none" else {"quantization_config": _four_bits(dtype)}
    model = load_strictly(AutoModelForCausalLM, folder, dtype, **options)
    return prepare(model, frozen=frozen, gradient_checkpointing=gradient_checkpointing)


def _four_bits(dtype: torch.dtype | str) -> Any:
    from transformers import BitsAndBytesConfig

    bitsandbytes("backbones.quantise_llm: 4bit", "leave it out, or cache the frozen model's states (docs/cache.md)")
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=as_dtype(dtype),
    )


def load_llm_tokenizer(path: Source, *, begins: bool = True) -> "PreTrainedTokenizerFast":
    """The LLM's tokenizer: SentencePiece-like (LLaMA-1, -2) or byte-level BPE (LLaMA-3, OPT).

    LLaMA has no padding token: <unk> (else the end token) takes its place; padding, on the right, is masked, so its
    embedding never counts. Texts begin with the start token; transformers 5 loses it for some published folders, so it
    is set here and checked.

    Args:
        begins: False is for a model whose texts have no start token (Qwen).

    Raises:
        BackboneError: a missing or broken file, no end token, or no start token where texts have one.
    """
    from transformers import AutoTokenizer

    folder = locate(path, LLM_TOKENIZER)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, padding_side="right")
    except Exception as error:  # json, tokenizers' Rust errors, OSError
        raise BackboneError(f"{folder}: cannot be read as a tokenizer: {error}; fetch it again") from error
    if tokenizer.eos_token_id is None:
        raise BackboneError(f"{folder / 'tokenizer_config.json'}: expected an eos_token, found none")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if begins and not _begins(tokenizer):
        tokenizer.add_bos_token = True
    if begins and not _begins(tokenizer):
        raise BackboneError(
            f"{folder / 'tokenizer_config.json'}: expected a bos_token with which texts begin, found none"
        )
    return tokenizer


def _begins(tokenizer: "PreTrainedTokenizerFast") -> bool:
    return tokenizer("a").input_ids[0] == tokenizer.bos_token_id
