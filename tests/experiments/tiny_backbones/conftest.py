"""Toy tokenizers, toy batches and exported random models: no small world, no files but temporary ones."""

from pathlib import Path

import pytest

from datamodules.schema import Batch, collate
from experiments.tiny_backbones import tokenizers as tok
from tests.experiments.tiny_backbones.toy import COLOURS, PLACES, WORDS, caption, mask, picture


@pytest.fixture(scope="session")
def tokenizer_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of tokenizers (clip, llama, blip2) of the words of the toy corpus."""
    root = tmp_path_factory.mktemp("tokenizers")
    tok.write_tokenizers(WORDS, root)
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
