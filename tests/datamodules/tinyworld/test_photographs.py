"""The photographs: from the wheel, known by hash, and on one side of the split."""

import pytest
from PIL import Image

from datamodules.tinyworld import photographs
from datamodules.tinyworld.draws import Draws
from datamodules.tinyworld.photographs import PHOTOGRAPHS, PhotographError


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_every_photograph_lies_in_the_wheel_and_can_be_cut(name):
    cut = photographs.cut(photographs.draw_cut(Draws(0, "x", 0), name))
    assert cut.shape == (64, 64, 3) and cut.std() > 1


def test_the_stereo_pair_stands_on_one_side():
    assert PHOTOGRAPHS["motorcycle_left.png"].held_out == PHOTOGRAPHS["motorcycle_right.png"].held_out


@pytest.mark.parametrize("kind", ["texture", "photograph"])
def test_no_file_and_no_words_are_on_both_sides(kind):
    seen, unseen = (photographs.names(kind, held_out) for held_out in (False, True))
    assert seen and unseen
    assert not {PHOTOGRAPHS[name].words for name in seen} & {PHOTOGRAPHS[name].words for name in unseen}


def test_only_lossless_files_are_used():
    assert all(name.endswith(".png") for name in PHOTOGRAPHS)


@pytest.fixture
def other_wheel(tmp_path, monkeypatch):
    """A package called skimage whose data folder is under our control."""
    package = tmp_path / "skimage"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "skimage", raising=False)
    photographs.load.cache_clear()
    yield package
    photographs.load.cache_clear()


def test_a_missing_file_is_named(other_wheel):
    with pytest.raises(PhotographError, match=r"coins\.png: this photograph is expected inside the scikit-image wheel"):
        photographs.load("coins.png")


def test_another_file_is_refused(other_wheel):
    Image.new("RGB", (512, 512)).save(other_wheel / "data" / "coins.png")
    with pytest.raises(PhotographError, match="expected sha256 f8d773fc"):
        photographs.load("coins.png")
