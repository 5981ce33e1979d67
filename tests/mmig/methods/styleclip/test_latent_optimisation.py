"""Inversion and the first way of editing: the rate, eq 6 and its limits, what is refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mmig.methods.styleclip.errors import StyleClipError
from mmig.methods.styleclip.generator import StyleGenerator
from mmig.methods.styleclip.inversion import Inverter, load_inverter
from mmig.methods.styleclip.latent_optimisation import LatentOptimisationEditor, LatentSampling, code_distance
from mmig.methods.styleclip.metric import InversionError
from mmig.methods.styleclip.projector import Inverted, noise_correlation, project
from mmig.methods.styleclip.schedule import ramp
from mmig.metrics.bank import FeatureBank
from tests.mmig.methods.styleclip.contract import SIZES
from tests.mmig.methods.styleclip.support import drawn_batch, small_generator, tiny_clip
from tests.tiny_vision import build_lpips_backbone

QUICK = LatentSampling(inversion_steps=60, inversion_limit=None, num_steps=12)


def editor(sampling: LatentSampling = QUICK) -> LatentOptimisationEditor:
    return LatentOptimisationEditor(Inverter(small_generator()), tiny_clip(), None, sampling)


def generators(count: int = 2) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(count)]


@pytest.mark.parametrize(
    ("num_steps", "expected"),
    [
        (300, {0: 0.0, 1: 0.00667, 15: 0.1, 225: 0.1, 262: 0.0510, 299: 4.4e-5}),
        (40, {0: 0.0, 1: 0.05, 2: 0.1, 30: 0.1, 39: 0.00245}),
    ],
)
def test_the_rate_goes_up_in_a_line_and_down_as_a_cosine(num_steps: int, expected: dict[int, float]) -> None:
    assert {step: 0.1 * ramp(step, num_steps) for step in expected} == pytest.approx(expected, rel=2e-2, abs=1e-7)


def test_the_projector_finds_what_the_generator_drew() -> None:
    generator = small_generator()
    images = drawn_batch(generator)["source"]
    start = project(generator, images, 1, generators())
    found = project(generator, images, 100, generators())
    assert (found.errors < 0.1 * start.errors).all() and (found.errors < 0.02).all()


def test_an_editor_of_a_generator_with_a_margin_takes_and_gives_whole_pictures() -> None:
    generator = small_generator(margin=4)
    made = LatentOptimisationEditor(Inverter(generator), tiny_clip(), None, replace(QUICK, inversion_steps=2))
    batch = drawn_batch(generator, target_caption=["a red circle", "a blue square"])
    assert batch["source"].shape[-1] == made.resolution == 24
    output = made(batch, generators())
    assert output.images.shape == batch["source"].shape and "as_made" not in output.extras


def test_a_projection_does_not_depend_on_its_batch() -> None:
    generator = small_generator()
    images = drawn_batch(generator)["source"]
    together, alone = project(generator, images, 5, generators()), project(generator, images[1:], 5, generators()[1:])
    torch.testing.assert_close(together.codes[1:], alone.codes, atol=1e-4, rtol=1e-4)


def test_white_noise_has_less_correlation_than_a_picture() -> None:
    noise, waves = torch.randn(1, 1, 32, 32), torch.linspace(-1.7, 1.7, 32).expand(1, 1, 32, 32)
    assert noise_correlation([noise]) < 0.3 < noise_correlation([waves])


def test_code_distance_is_the_sum_of_squares_or_its_root() -> None:
    codes = torch.zeros(1, 2, 3)
    codes[0, 0, 0], codes[0, 1, 2] = 3.0, 4.0
    assert code_distance(codes, torch.zeros(1, 2, 3), "squared").item() == 25
    assert code_distance(codes, torch.zeros(1, 2, 3), "norm").item() == pytest.approx(5)


def test_optimisation_moves_pictures_towards_their_text() -> None:
    made = editor(replace(QUICK, l2=0.0))
    batch = drawn_batch(made.generator, target_caption=["a red circle", "a blue square"])
    inverted = made.inverter(batch["source"], 60, generators())
    texts = made.clip.encode_texts(batch["target_caption"])
    with torch.no_grad():
        before = made.clip.distance(made.generator(inverted.codes, inverted.noise), texts)
    codes = made.optimised(inverted, texts)
    with torch.no_grad():
        after = made.clip.distance(made.generator(codes, inverted.noise), texts)
    assert (after < before - 0.05).all()


def test_a_huge_l2_leaves_the_code_where_it_is() -> None:
    made = editor()
    batch = drawn_batch(made.generator, target_caption=["a red circle"] * 2)
    inverted = made.inverter(batch["source"], 5, generators())
    texts = made.clip.encode_texts(batch["target_caption"])
    free, held = (
        LatentOptimisationEditor(made.inverter, made.clip, None, replace(QUICK, l2=l2)).optimised(inverted, texts)
        for l2 in (0.0, 1e6)
    )
    free, held = ((codes - inverted.codes).square().mean().sqrt() for codes in (free, held))
    assert held < 0.2 * free


def test_an_edit_says_how_well_it_was_inverted_and_keeps_the_sources_size() -> None:
    made = editor(replace(QUICK, inversion_steps=2, num_steps=2))
    batch = drawn_batch(made.generator, target_caption=["a red circle"] * 2)
    output = made(batch, 0)
    assert output.images.shape == (2, 3, 16, 16) and output.texts == ["a red circle"] * 2
    assert len(output.extras["inversion_error"]) == 2
    batch["source"] = batch["source"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    with torch.inference_mode():
        larger = made(batch, 0)
    assert larger.images.shape == (2, 3, 32, 32)
    assert torch.equal(torch.stack(larger.extras["as_made"]), output.images)


class KnownCodes(torch.nn.Module):
    """An encoder that knows its pictures' codes."""

    def __init__(self, codes: torch.Tensor) -> None:
        super().__init__()
        self.codes = codes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.codes


def test_an_encoder_takes_the_projectors_place() -> None:
    generator = small_generator()
    codes = generator.codes(torch.randn(2, 16), 0.3)
    images = generator(codes).clamp(-1, 1)
    made = LatentOptimisationEditor(
        Inverter(generator, KnownCodes(codes)), tiny_clip(), None, LatentSampling(num_steps=1)
    )
    assert made.idle_settings == ("inversion_steps", "identity")
    output = made(drawn_batch(generator, target_caption=["a red circle"] * 2) | {"source": images}, 0)
    assert max(output.extras["inversion_error"]) < 1e-9
    torch.testing.assert_close(output.images, images)  # the first step's rate is 0


def test_the_projector_follows_lpips_where_its_weights_are_given(tmp_path: Path) -> None:
    file = build_lpips_backbone(tmp_path / "alexnet.pth", "alexnet")
    torch.manual_seed(0)
    generator = StyleGenerator(**SIZES | {"resolution": 32}).requires_grad_(False)
    images = generator(generator.codes(torch.randn(1, 16))).clamp(-1, 1)
    seeing, blind = load_inverter(generator, lpips=file), load_inverter(generator)
    codes = [each(images, 3, generators(1)).codes for each in (seeing, blind)]
    assert not torch.equal(*codes)


def test_a_picture_that_was_not_inverted_may_be_skipped_and_is_measured() -> None:
    made = editor(replace(QUICK, inversion_steps=1, num_steps=1, inversion_limit=1e-4, uninverted="skip"))
    batch = drawn_batch(made.generator, target_caption=["a red circle"] * 2)
    output = made(batch, 0)
    assert output.extras["missing"] == [True, True]
    found = InversionError().values(FeatureBank(batch, output.images, extras=output.extras))
    assert found.values.tolist() == pytest.approx(output.extras["inversion_error"])
    assert InversionError().values(FeatureBank(batch, output.images)).reasons == ["not_told"] * 2


def test_a_text_that_clip_cuts_is_refused_before_anything_is_inverted() -> None:
    class Unused(Inverter):
        def forward(self, *_: object) -> Inverted:
            raise AssertionError("inverted")

    made = LatentOptimisationEditor(Unused(small_generator()), tiny_clip(), None, QUICK)
    batch = drawn_batch(made.generator, target_caption=["a red circle", "a red circle " * 40])
    with pytest.raises(StyleClipError, match=r"^prompt: expected at most the \d+ tokens that CLIP reads"):
        made(batch, 0)


def test_bad_input_is_refused_in_one_line() -> None:
    made = editor(replace(QUICK, inversion_steps=1, inversion_limit=1e-4))
    batch = drawn_batch(made.generator, target_caption=["a red circle"] * 2)
    with pytest.raises(StyleClipError, match=r"^sample 'k0': its inversion ended at .* raise sampling.inversion_steps"):
        made(batch, 0)
    with pytest.raises(StyleClipError, match=r"^source: expected a square .*, found 12x16 pixels"):
        made(batch | {"source": batch["source"][..., :12]}, 0)
    with pytest.raises(ValueError, match=r"lpips: expected a generator of at least 31 pixels, found 16"):
        load_inverter(small_generator(), lpips="alexnet.pth")
    with pytest.raises(ValueError, match=r"sampling.l2: expected a finite number of at least 0"):
        LatentSampling(l2=-1.0)
