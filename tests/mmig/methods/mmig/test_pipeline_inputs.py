"""The pipeline: images and texts of every kind, and what it cannot use."""

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from mmig.base.texts import CutText
from mmig.methods.mmig.connectors import Connectors
from mmig.methods.mmig.pipeline import MMIGPipeline
from tests.mmig.methods.mmig.pipeline_support import FAST, TEXT, build, picture, seeded, source
from tests.tiny_fixtures import TinyBackbones, build_all


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(folders: TinyBackbones) -> MMIGPipeline:
    """img2img with fresh MMSM, no vision tower, no captioner."""
    return build(folders, concat=False, whole=False, trained=False)


@pytest.fixture(scope="module")
def whole(folders: TinyBackbones) -> MMIGPipeline:
    """concat with every part; MMSM and adapters are not zero."""
    return build(folders, concat=True, whole=True, trained=True)


@pytest.mark.parametrize(
    ("image", "seen"),
    [
        (picture(64, 64, "L"), (64, 64)),
        (picture(50, 100, "RGBA"), (64, 32)),
        (picture(1, 1), (64, 64)),
        (picture(4000, 2000), (32, 64)),
        (picture(4000, 1, "I;16"), (16, 64)),
    ],
    ids=["greyscale", "transparent", "one pixel", "4000 pixels", "a line of 16 bits"],
)
def test_any_image_comes_back_in_its_size(
    image: Image.Image, seen: tuple[int, int], plain: MMIGPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes: list[tuple[int, ...]] = []
    edit = plain.edit
    monkeypatch.setattr(
        plain, "edit", lambda source, *rest, **more: shapes.append(source.shape[2:]) or edit(source, *rest, **more)
    )
    edited = plain(image, "x", TEXT, num_inference_steps=2, strength=0.5).images[0]
    assert shapes == [seen]
    assert (edited.size, edited.mode) == (image.size, "RGB")


def test_transparency_lies_on_white(plain: MMIGPipeline) -> None:
    clear, white = Image.new("RGBA", (64, 64), (0, 0, 0, 0)), Image.new("RGB", (64, 64), "white")
    first, second = (plain(image, "x", TEXT).images[0].tobytes() for image in (clear, white))
    assert first == second


def test_a_long_response_is_cut_with_one_line(plain: MMIGPipeline, caplog: pytest.LogCaptureFixture) -> None:
    words = " ".join(["circle"] * 75)
    with caplog.at_level(logging.WARNING):
        short, long = (plain(source(), "x", text, output_type="pt").images for text in (words, f"{words} red red"))
    assert torch.equal(short, long)
    room = plain.model.mllm.config.max_response_tokens
    of_llm = "the longest response has {} tokens, of which the language model reads {}: what follows has no effect"
    assert [record.getMessage() for record in caplog.records] == [
        of_llm.format(75, room),
        "the longest response has 77 tokens, of which the text encoder reads 75: what follows has no effect; load the "
        "pipeline with max_text_chunks=2",
        of_llm.format(77, room),
    ]


def test_what_is_cut_of_a_response_is_said_by_its_sample(whole: MMIGPipeline) -> None:
    long = " ".join(["circle"] * 80)
    cut = whole.edit(source(2), ["x", "x"], ["a circle", long], FAST, num_images=2).extras["cut"]
    assert cut[:2] == [[], []]
    room = whole.model.mllm.config.max_response_tokens
    assert (
        cut[2]
        == cut[3]
        == [
            CutText("response", "text encoder", 80, 75),
            CutText("response", "language model", 80, room),
        ]
    )
    assert whole.edit(source(2), ["x", "y"], sampling=FAST).extras["cut"] == [[], []]


def test_an_instruction_longer_than_what_the_llm_reads_is_refused(plain: MMIGPipeline) -> None:
    room = plain.llm.config.max_position_embeddings
    for responses in (None, TEXT):
        with pytest.raises(ValueError, match=rf"^instruction 'red red .*the language model reads fewer than {room} in"):
            plain(source(2), ["x", "red " * room], responses)


def test_more_chunks_read_all_of_a_long_response(folders: TinyBackbones, plain: MMIGPipeline) -> None:
    words = " ".join(["circle"] * 75)
    settings = {name: value for name, value in plain.config.items() if name in ("sampling", "source_conditioning")}
    longer = MMIGPipeline(**plain.components, **settings, max_text_chunks=2)
    longer.set_progress_bar_config(disable=True)
    short, long = (longer(source(), "x", text, output_type="pt").images for text in (words, f"{words} red red"))
    assert not torch.allclose(short, long, atol=1e-4)


def test_without_an_llm_responses_must_be_given(whole: MMIGPipeline) -> None:
    parts = whole.components | {"llm": None, "llm_tokenizer": None, "vision": None}
    bare = MMIGPipeline(**parts, source_conditioning="concat", sampling=whole.config.sampling)
    bare.set_progress_bar_config(disable=True)
    with pytest.raises(ValueError, match=r"^no response and no LLM to write one: give responses="):
        bare(source(), "x")
    found = bare(source(), "x", TEXT, output_type="pt", generator=seeded())
    expected = whole(source(), "x", TEXT, output_type="pt", generator=seeded(), use_mmsm=False)
    assert torch.equal(found.images, expected.images)


def test_an_empty_response_is_said_to_be_one(whole: MMIGPipeline, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        empty = whole(source(2), "x", [TEXT, ""], output_type="pt", generator=[seeded(), seeded()]).images
    assert [record.getMessage() for record in caplog.records] == [
        "image 1 has an empty response: its edit follows no text"
    ]
    left_out = whole(source(2), "x", [TEXT, ""], output_type="pt", generator=[seeded(), seeded()], use_mmsm=False)
    assert torch.equal(empty[1], left_out.images[1]) and not torch.equal(empty[0], left_out.images[0])


def test_connectors_refuse_parts_that_they_were_not_trained_with(whole: MMIGPipeline) -> None:
    config = {name: value for name, value in whole.connectors.config.items() if not name.startswith("_")}
    with pytest.raises(
        ValueError, match=r"of 6 blocks and width 40, the pipeline has .* no vision tower; give the LLM"
    ):
        Connectors(**config).join_llm(whole.llm, whole.llm_tokenizer, None)
    with pytest.raises(ValueError, match="belong to another LLM or vision tower already"):
        whole.connectors.join_llm(whole.llm, whole.llm_tokenizer, None)
    with pytest.raises(ValueError, match="give llm_tokenizer"):
        Connectors(**config).join_llm(whole.llm, None, whole.vision)
    with pytest.raises(ValueError, match="give captioner_processor"):
        Connectors(**config).join_captioner(whole.captioner, None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda pipe: pipe("in.png", "x"), "image: expected PIL images"),
        (lambda pipe: pipe([], "x"), "image: expected PIL images, .* found none"),
        (lambda pipe: pipe([picture(64, 64), picture(64, 32)], "x"), "must have one shape to be edited at, found"),
        (lambda pipe: pipe(torch.zeros(1, 1, 64, 64), "x"), r"expected float \[B,3,H,W\] .* found .*\[1, 1, 64, 64\]"),
        (lambda pipe: pipe(torch.full((1, 3, 64, 64), 255.0), "x"), r"expected values in \[-1,1\], found \[255,255\]"),
        (lambda pipe: pipe(torch.full((1, 3, 64, 64), torch.nan), "x"), r"expected values in \[-1,1\], found \[nan"),
        (lambda pipe: pipe(torch.zeros(1, 3, 1, 1), "x"), "image of 1x1 pixels: both sides must be multiples of 4"),
        (lambda pipe: pipe(source(2), ["x"]), "instructions: expected a list with one for each of 2 images, found 1"),
        (lambda pipe: pipe(source(2), "x", ["y"]), "responses: expected a list with one for each of 2 images, found 1"),
        (lambda pipe: pipe(source(2), ["x", " "], TEXT), "instruction: expected words that say what to do, found an"),
        (lambda pipe: pipe(source(), "x", num_images_per_prompt=0), "num_images_per_prompt: expected at least 1"),
        (lambda pipe: pipe(source(), "x", output_type="np"), "output_type: expected 'pil' or 'pt', found 'np'"),
        (lambda pipe: pipe(source(), "x", TEXT, strength=1.5), r"sampling.strength: .* in \[0, 1\], found 1.5"),
        (lambda pipe: pipe(source(), "x", TEXT, num_inference_steps=0), "num_steps: expected .* at least 1, found 0"),
        (lambda pipe: pipe(source(), "x", TEXT, guidance_scale=torch.nan), "guidance_scale: expected a finite number"),
        (lambda pipe: pipe(source(), "x", TEXT, generator="42"), "generator: expected a torch.Generator, a seed"),
        (lambda pipe: pipe(source(2), "x", TEXT, generator=[1, None]), "generator: expected .* found None"),
        (
            lambda pipe: pipe(source(3), "x", TEXT, generator=[seeded()] * 2),
            "generator: expected one, one for each of 3",
        ),
        (
            lambda pipe: pipe(source(), "x", TEXT, guidance_scale=0.0, return_attention=True),
            "attention maps need the branch with text",
        ),
        (
            lambda pipe: pipe(source(), "x", callback_on_step_end_tensor_inputs=["prompt_embeds"]),
            "callback_on_step_end_tensor_inputs: only 'latents'",
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    call: Callable[[MMIGPipeline], Any], message: str, plain: MMIGPipeline
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        call(plain)
    assert "\n" not in str(error.value)
