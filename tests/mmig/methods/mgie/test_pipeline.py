"""Editing with MGIE and LGIE."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from mmig.diffusion.conditioning import Conditioning, denoise
from mmig.diffusion.latents import decode, encode_unscaled, latent_shape
from mmig.diffusion.sampling import sample
from mmig.editor import MissingFieldError
from mmig.methods.mgie.pipeline import MGIEPipeline, MGIESampling
from tests.mmig.methods.mgie.support import EXPRESSIVE, batch, module
from tests.tiny_llava import CONTEXT

QUICK = MGIESampling(num_steps=2, max_new_tokens=4)


def pipeline(sees: bool = True, **changes: Any) -> MGIEPipeline:
    return module(sees=sees, sampling=replace(QUICK, **changes)).make_pipeline()


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in numbers]


@pytest.mark.parametrize("sees", [True, False])
def test_an_edit_does_not_depend_on_its_batch(sees: bool) -> None:
    editor, data = pipeline(sees), batch(2)
    data["instruction"] = ["make it blue", "remove the largest shape, please"]
    both = editor(data, seeds(1, 2))
    alone = editor.edit(data["source"][1:], data["instruction"][1:], seeds(2))
    assert both.images.shape == data["source"].shape and both.images.abs().max() <= 1
    torch.testing.assert_close(both.images[1:], alone.images, atol=1e-4, rtol=1e-4)
    assert both.texts[1] == alone.texts[0]


def test_settings_are_the_released_ones_unless_configured() -> None:
    assert module().make_pipeline().sampling == MGIESampling(100, 7.5, 1.5, "generated", 96, 3)
    generated, given = pipeline(), pipeline(response="given")
    assert (generated.required_fields, generated.response_source) == (("source", "instruction"), "generated")
    assert (given.required_fields, given.response_source) == (("source", "instruction", "expressive"), "given")
    with pytest.raises(ValueError, match=r"^sampling\.response: expected one of given, generated, found 'asked'"):
        MGIESampling(response="asked")  # type: ignore[arg-type]


def test_scales_of_one_are_the_guided_branch_alone() -> None:
    editor, data = pipeline(guidance_scale=1.0, image_guidance_scale=1.0, response="given"), batch(2)
    found = editor(data, seeds(1, 2)).images
    writer, source = editor.writer, data["source"]
    with torch.no_grad():
        states = writer.states(writer.encode(data["instruction"], data["expressive"]), writer.visual_tokens(source))
        guidance = editor.head(states, writer.tokens.input_rows())
        condition = Conditioning(guidance, image_latents=encode_unscaled(editor.vae, source))
        result = sample(
            lambda noisy, timesteps: denoise(editor.unet, noisy, timesteps, condition),
            editor.scheduler,
            latent_shape(editor.vae, 64, 64),
            2,
            seeds(1, 2),
        )
        expected = decode(editor.vae, result).clamp(-1, 1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_scales_of_zero_leave_text_and_picture_out() -> None:
    editor, data = pipeline(guidance_scale=0.0, image_guidance_scale=0.0, response="given"), batch(2)
    torch.nn.init.constant_(editor.unet.conv_in.weight.data[:, 4:], 0.1)
    found = editor(data, seeds(1, 2)).images
    other = data | {"source": data["source"].flip(0), "expressive": ["a star", "a ring"]}
    assert torch.equal(editor(other, seeds(1, 2)).images, found)
    editor.sampling = replace(editor.sampling, guidance_scale=7.5, image_guidance_scale=1.5)
    assert not torch.equal(editor(other, seeds(1, 2)).images, editor(data, seeds(1, 2)).images)


def test_a_text_without_its_image_tokens_guides_and_is_said(caplog: pytest.LogCaptureFixture) -> None:
    editor, data = pipeline(), batch(2)
    with caplog.at_level(logging.WARNING):
        output = editor(data, seeds(1, 2))
    assert output.extras["forced"] == [True, True] and output.images.isfinite().all()
    assert "2 of 2 texts did not reach their [IMG] tokens" in caplog.text


def test_what_it_wrote_given_again_makes_the_same_picture() -> None:
    editor, data = pipeline(), batch(2)
    written = editor.writer.write(data["instruction"], editor.writer.visual_tokens(data["source"]), 4, 3)
    output = editor(data, seeds(1, 2))
    assert output.texts == [text.strip() for text in editor.writer.tokenizer.batch_decode(written.ids)]
    if editor.writer.text_ids(output.texts) == written.ids:
        again = editor.edit(data["source"], data["instruction"], seeds(1, 2), output.texts)
        torch.testing.assert_close(again.images, output.images, atol=1e-4, rtol=1e-4)


def test_a_given_text_longer_than_the_context_is_cut_and_said() -> None:
    editor, data = pipeline(response="given"), batch(2)
    data["expressive"] = [EXPRESSIVE[0], "very " * 400]
    output = editor(data, seeds(1, 2))
    assert output.extras["cut"][0] == [] and output.extras["forced"] == [False, False]
    (cut,) = output.extras["cut"][1]
    (prompt,) = editor.writer.prompts(data["instruction"][1:])
    assert (cut.name, cut.reader, cut.read) == ("expressive", "language model", CONTEXT - len(prompt) - 8)


def test_bad_input_is_refused_in_a_line() -> None:
    editor, data = pipeline(), batch(2)
    with pytest.raises(MissingFieldError, match="sample 'sample1': MGIEPipeline needs the field 'source', found none"):
        editor(data | {"has_source": torch.tensor([True, False])}, 0)
    with pytest.raises(ValueError, match=r"^source: expected the picture to edit, float \[B,3,H,W\] in .*found none$"):
        editor.edit(None, ["make it blue"], 0)
    with pytest.raises(ValueError, match=r"^instructions: expected a list with one for each of 2 images, found 1$"):
        editor.edit(data["source"], ["make it blue"], 0)
    for given in (None, ["a star"]):
        with pytest.raises(ValueError, match=r"^instruction 'very very .* in all; shorten it$"):
            editor.edit(data["source"][:1], ["very " * 300], 0, given)
