"""The gate of a generator: pictures of a random one are nothing, and what is drawn is the same for the same seed."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from experiments import gan_gate
from tests.mmig.methods.styleclip.support import save_generator, small_generator


def test_a_random_generator_does_not_pass_and_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_generator(tmp_path)
    with pytest.raises(SystemExit) as caught:
        gan_gate.main([str(folder), "--count", "9", "--out", str(tmp_path / "figure.png")])
    assert caught.value.code == 1
    assert "read: 0.0 % of 9; the gate of 80 % is not passed" in capsys.readouterr().out
    assert Image.open(tmp_path / "figure.png").size == (192, 192)


def test_pictures_are_those_of_the_seed_in_the_oracles_size() -> None:
    one, again, other = (gan_gate.drawn(small_generator(), 3, 0.7, seed) for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    assert one.shape == (3, 3, 64, 64) and one.min() >= -1 and one.max() <= 1


def test_no_generator_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as caught:
        gan_gate.main([str(tmp_path)])
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
