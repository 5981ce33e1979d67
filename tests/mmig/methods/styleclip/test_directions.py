"""The third way: what is measured of each channel, and the identities of the direction that comes of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmig.backbones.parts import BackboneError
from mmig.methods.styleclip.__main__ import main
from mmig.methods.styleclip.direction_editor import DirectionSampling, GlobalDirectionEditor, open_editor
from mmig.methods.styleclip.directions import StyleDirections, channel_steps, moved_styles, text_direction
from mmig.methods.styleclip.errors import StyleClipError
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.inversion import Inverter
from mmig.methods.styleclip.relevance import (
    DirectionSettings,
    measure,
    movable,
    read_directions,
    relevance_of,
    statistics,
)
from tests.mmig.methods.styleclip.support import CLIP, drawn_batch, save_generator, small_generator, tiny_clip

FEW = DirectionSettings(num_codes=200, num_images=2, max_side=4, chunk=6)
FACTS = {"generator": "g", "clip": "c"}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("directions")
    assert measure(small_generator(), tiny_clip(), folder, FACTS, FEW) == 0
    return folder


def known(folder: Path) -> StyleDirections:
    return read_directions(folder, small_generator(), FACTS)


def test_the_published_channels_are_5376() -> None:
    with torch.device("meta"):
        places = movable(StyleGenerator(), 128)
    assert sum(width for _, width in places) == 5376
    assert [place for place, _ in places] == [0, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15]


def test_statistics_are_those_of_truncated_styles() -> None:
    generator, settings = small_generator(), replace(FEW, truncation=0.5, cutoff=6)
    z = torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    mean = generator.mapping.w_avg
    styles = generator.blocks[0].conv1.affine(mean + 0.5 * (generator.mapping(z) - mean))
    found = statistics(generator, settings)
    torch.testing.assert_close(found[0], styles.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found[1], styles.std(0, correction=0), atol=1e-4, rtol=1e-3)


def test_relevance_is_the_mean_view_of_a_channel_moved_to_both_sides(measured: Path) -> None:
    generator, clip, stored = small_generator(), tiny_clip(), known(measured)
    codes = generator.codes(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)), 0.7, 8)
    views = []
    for side in (5.0, -5.0):
        styles = generator.styles(codes)
        styles[0][:, 3] = stored.mean[3] + side * stored.std[3]
        views.append(clip.encode_images(generator.synthesise(styles)))
    expected = F.normalize(F.normalize(views[0] - views[1], dim=1).mean(0), dim=0)
    torch.testing.assert_close(stored.relevance[3], expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(stored.relevance.norm(dim=1), torch.ones(16))
    again = relevance_of(generator, clip, 3, stored.mean, stored.std, FEW, batch=1)
    torch.testing.assert_close(again, expected, atol=1e-4, rtol=1e-3)


def test_ranks_measure_what_one_process_does_and_go_on_where_they_were(measured: Path, tmp_path: Path) -> None:
    parts = small_generator(), tiny_clip()
    assert measure(*parts, tmp_path, FACTS, FEW, rank=1, num_ranks=2) == 2  # of three chunks it has the second
    with pytest.raises(BackboneError, match=r"2 of 4 files are missing, such as relevance-0000.safetensors"):
        known(tmp_path)
    before = (tmp_path / "relevance-0001.safetensors").stat().st_mtime_ns
    assert measure(*parts, tmp_path, FACTS, FEW) == 0
    assert (tmp_path / "relevance-0001.safetensors").stat().st_mtime_ns == before
    assert torch.equal(known(tmp_path).relevance, known(measured).relevance)


def test_directions_of_others_are_refused(measured: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="expected directions of this clip, found those of another"):
        read_directions(measured, small_generator(), FACTS | {"clip": "other"})
    with pytest.raises(BackboneError, match=r"expected config.json of measured directions, found none"):
        known(tmp_path)


def test_the_direction_of_two_texts_has_length_one_and_turns_with_them() -> None:
    one, other = F.normalize(torch.randn(2, 8), dim=1)
    direction = text_direction(one, other)
    torch.testing.assert_close(direction, (one - other) / (one - other).norm())
    torch.testing.assert_close(text_direction(other, one), -direction)
    with pytest.raises(StyleClipError, match="reads the same"):
        text_direction(one, one)


def test_beta_zero_keeps_every_channel_and_a_large_one_is_refused_with_the_most_there_is() -> None:
    relevance, std = F.normalize(torch.randn(6, 4), dim=1), torch.rand(6) + 0.5
    direction = F.normalize(torch.randn(4), dim=0)
    relevant = relevance @ direction
    steps = channel_steps(relevance, direction, std, 0.0)
    torch.testing.assert_close(steps, relevant / relevant.abs().max() * std)
    some = float(relevant.abs().sort().values[3])
    assert (channel_steps(relevance, direction, std, some - 1e-6) != 0).sum() == 3
    with pytest.raises(StyleClipError, match=rf"the most is {relevant.abs().max():.3f}; take less"):
        channel_steps(relevance, direction, std, 1.01)


def editor(measured: Path, **sampling: object) -> GlobalDirectionEditor:
    given = {"inversion_steps": 2, "inversion_limit": None, "beta": 0.0, "templates": "none", "neutral": "a circle"}
    made = DirectionSampling(**(given | sampling))
    return GlobalDirectionEditor(Inverter(small_generator()), tiny_clip(), known(measured), made)


def test_alpha_zero_changes_nothing_and_its_sign_turns_the_step_round(measured: Path) -> None:
    styles = small_generator().styles(torch.randn(2, 6, 16))
    steps = editor(measured).steps("a red circle", "a circle")
    forth, back = (moved_styles(styles, known(measured).places, alpha * steps) for alpha in (2.0, -2.0))
    torch.testing.assert_close(forth[0] - styles[0], styles[0] - back[0])
    assert all(torch.equal(a, b) for a, b in zip(forth[1:], styles[1:], strict=True))
    batch = drawn_batch(small_generator(), target_caption=["a red circle"] * 2)
    still = editor(measured, alpha=0.0)(batch, 0)
    error = (still.images - batch["source"]).square().mean((1, 2, 3)).tolist()
    assert error == pytest.approx(still.extras["inversion_error"], rel=1e-4)


def test_each_sample_moves_by_its_own_texts(measured: Path) -> None:
    batch = drawn_batch(small_generator(), target_caption=["a red circle", "a blue square"])
    both = editor(measured, neutral="")(
        batch | drawn_batch(small_generator(), source_caption=["a circle", "a square"]), [1, 2]
    )
    one = {name: value[1:] for name, value in batch.items()}
    alone = editor(measured, neutral="a square")(one, [2])
    torch.testing.assert_close(both.images[1:], alone.images, atol=1e-3, rtol=1e-3)
    with pytest.raises(StyleClipError, match=r"^sampling.neutral: expected words for what the sources show"):
        editor(measured, neutral="")(batch, 0)


def test_the_command_measures_what_the_editor_opens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator, out = str(save_generator(tmp_path)), tmp_path / "directions"
    quick = ["--num-codes", "50", "--num-images", "1", "--max-side", "4", "--device", "cpu"]
    assert main(["directions", "--generator", generator, "--clip", CLIP, "--out", str(out), *quick]) == 0
    assert "complete" in capsys.readouterr().out
    assert json.loads((out / "config.json").read_text())["settings"]["num_images"] == 1
    assert open_editor(generator, CLIP, str(out)).directions.relevance.shape[0] == 16
    with pytest.raises(BackboneError, match="expected directions of this clip_normalise"):
        open_editor(generator, CLIP, str(out), clip_normalise=True)
