"""The picture of attention maps: what is light, what is left out, and runs that have none."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import edit
from mmig.editor import ConceptAttention
from mmig.evaluation.attention_grid import draw_attention, heat

GREY = Image.new("RGB", (64, 32), (128, 128, 128))


def test_high_attention_is_light_and_low_attention_dark() -> None:
    values = np.full((4, 8), 0.9, dtype=np.float32)
    values[0, 7] = 1.0
    light = np.asarray(heat(GREY, values).convert("L"), dtype=int)
    assert light.shape == (32, 64)
    assert light[:4, -4:].min() > 100 > 40 > light[16:, :32].max()


def test_a_constant_map_has_one_colour() -> None:
    assert len(heat(GREY, np.ones((4, 8), dtype=np.float32)).getcolors()) == 1


def test_each_concept_that_was_read_has_a_tile() -> None:
    words, maps = [["dog", "lost", "a very long concept that is wider than its picture"]], torch.rand(1, 3, 4, 8)
    both = draw_attention(GREY, GREY, ConceptAttention(words, maps, torch.tensor([[True, False, True]])))
    assert both.width == 2 * 22 + 4 * 240 + 3 * 16 and both.height == 2 * 22 + 34 + 120 + 26
    many = ConceptAttention([["dog"] * 3], maps, torch.ones(1, 3, dtype=torch.bool))
    assert draw_attention(GREY, GREY, many).height == 2 * 22 + 2 * (34 + 120) + 16 + 26


def test_without_concepts_it_says_so_and_a_line_of_pixels_is_drawn() -> None:
    nothing = ConceptAttention([[]], torch.zeros(1, 0, 4, 8), torch.zeros(1, 0, dtype=torch.bool))
    line = Image.new("RGB", (4000, 1))
    assert draw_attention(line, line, nothing).size == (2 * 22 + 2 * 240 + 16, 2 * 22 + 34 + 48 + 26)


@pytest.mark.parametrize(
    ("path", "message"),
    [("map.png", "--show-attention: NoisyCopy gives no attention maps"), ("map", "--show-attention map: expected an")],
)
def test_a_run_without_maps_is_refused(
    path: str, message: str, run_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    GREY.save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    given = ["--checkpoint", str(run_directory), "--image", "in.png", "--instruction", "x", "--out", "out.png"]
    with pytest.raises(SystemExit, match=message):
        edit.main([*given, "--show-attention", path])
    assert [file.name for file in tmp_path.iterdir()] == ["in.png"]
