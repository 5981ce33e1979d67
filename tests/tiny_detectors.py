"""Tiny object detectors with RANDOM weights in the published layouts: YOLOS, DETR, OWLv2, Grounding DINO.

Their queries and heads are drawn wide enough that boxes and scores differ.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from tests.tiny_saving import save, seeded
from tests.tiny_text import write_clip_tokenizer

SIDE = 64
"""Of the pictures that they see."""


def build_yolos(folder: Path, labels: Sequence[str], *, seed: int = 0) -> Path:
    """Write a YolosForObjectDetection and its image processor."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessor

    config = YolosConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        image_size=[SIDE, SIDE],
        patch_size=16,
        num_detection_tokens=12,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    with seeded(seed):
        model = YolosForObjectDetection(config)
        _tell_apart(model.vit.embeddings.detection_tokens, model.class_labels_classifier, model.bbox_predictor)
    YolosImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return save(model, folder, torch.float32)


def build_detr(folder: Path, labels: Sequence[str], *, seed: int = 0) -> Path:
    """Write a DetrForObjectDetection on a ResNet of transformers, and its image processor."""
    from transformers import DetrConfig, DetrForObjectDetection, DetrImageProcessor

    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=_resnet(),
        d_model=32,
        num_queries=6,
        encoder_layers=1,
        decoder_layers=1,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    with seeded(seed):
        model = DetrForObjectDetection(config)
        _tell_apart(model.model.query_position_embeddings.weight, model.class_labels_classifier, model.bbox_predictor)
    DetrImageProcessor(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return save(model, folder, torch.float32)


def build_owlv2(folder: Path, *, seed: int = 0) -> Path:
    """Write an Owlv2ForObjectDetection and its processor, with CLIP's tokenizer."""
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    vocabulary = write_clip_tokenizer(folder / "words", max_length=16)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "words")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": vocabulary, "max_position_embeddings": 16, "pad_token_id": tokenizer.pad_token_id}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = Owlv2Config(
        text_config=text, vision_config={**sizes, "image_size": SIDE, "patch_size": 16}, projection_dim=32
    )
    with seeded(seed):
        model = Owlv2ForObjectDetection(config)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer).save_pretrained(folder)
    return save(model, folder, torch.float32)


def build_grounding_dino(folder: Path, words: Sequence[str], *, seed: int = 0) -> Path:
    """Write a GroundingDinoForObjectDetection on a ResNet and a BERT of transformers, and its processor."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
    )

    pieces = sorted({piece for word in words for piece in word.split()})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *pieces]
    tokenizer = BertTokenizer(vocab={piece: number for number, piece in enumerate(vocabulary)})
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = GroundingDinoConfig(
        backbone_config=_resnet(),
        text_config=BertConfig(vocab_size=len(vocabulary), **sizes),
        d_model=32,
        num_queries=8,
        encoder_layers=1,
        decoder_layers=2,  # one alone leaves nothing to tie
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        num_feature_levels=2,
        encoder_n_points=2,
        decoder_n_points=2,
    )
    with seeded(seed):
        model = GroundingDinoForObjectDetection(config)
    GroundingDinoProcessor(
        GroundingDinoImageProcessor(size={"height": SIDE, "width": SIDE}), tokenizer
    ).save_pretrained(folder)
    return save(model, folder, torch.float32)


def _resnet() -> Any:
    from transformers import ResNetConfig

    return ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"]
    )


def _tell_apart(queries: torch.Tensor, *heads: torch.nn.Module) -> None:
    """Draw queries and heads anew: fresh ones give every box the same place and every label the same score."""
    with torch.no_grad():
        queries.normal_(std=2.0)
        for head in heads:
            for layer in (layer for layer in head.modules() if isinstance(layer, torch.nn.Linear)):
                layer.weight.normal_(std=1.4 / layer.in_features**0.5)
