"""Toy tokenizers, toy batches and exported random models: no small world, no files but temporary ones."""

from pathlib import Path

import pytest

from datamodules.schema import Batch, collate
from experiments.tiny_backbones import tokenizer_layouts as layouts
from experiments.tiny_backbones import tokenizers as tok
from tests.experiments.tiny_backbones.toy import COLOURS, CORPUS, PLACES, caption, mask, picture


@pytest.fixture(scope="session")
def tokenizer_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip/, llama/ and blip2/ folders with tokenizers of the toy corpus."""
    root = tmp_path_factory.mktemp("tokenizers")
    layouts.save_clip_tokenizer(root / "clip", *tok.train_clip_tokenizer(CORPUS))
    layouts.save_llama_tokenizer(root / "llama", *tok.train_llama_tokenizer(CORPUS))
    layouts.save_opt_tokenizer(root / "blip2", *tok.train_opt_tokenizer(CORPUS))
    return root


@pytest.fixture
def batch() -> Batch:
    """Eight recolouring samples; the last one has no source image and no source caption."""
    samples = []
    for index in range(8):
        first, second = list(COLOURS)[index % 4], list(COLOURS)[(index + 1) % 4]
        place = PLACES[index // 2]
        sample = {
            "key": f"{index:04d}",
            "source": picture(first, place),
            "target": picture(second, place),
            "instruction": f"Make the square {second}.",
            "source_caption": caption(first, place),
            "target_caption": caption(second, place),
            "response": caption(second, place),
            "concepts": [{"phrase": f"{second} square", "mask": mask(place)}],
        }
        if index == 7:
            del sample["source"], sample["source_caption"]
        samples.append(sample)
    return collate(samples)
