"""The whole editor: which picture is edited, what each scalar does, and what it says of odd input."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.tinyworld.sample import with_images
from datamodules.tinyworld.several_samples import draw_several_sample
from mmig.editor import with_settings
from mmig.evaluation.turns import InTurns
from mmig.methods.instruct_any2pix.editor import Any2PixEditor, Any2PixSampling, RetrievalError, Understood
from mmig.methods.instruct_any2pix.export import open_editor
from mmig.methods.instruct_any2pix.language_module import LLM2Module
from mmig.methods.instruct_any2pix.slots import SOURCE, InstructionError
from mmig.training.lora import LoRAConfig
from mmig.training.rng import sample_generators
from tests.mmig.methods.instruct_any2pix.support import as_batch, batch, decoder_folder, language, picture, sample_at

QUICK = Any2PixSampling(num_steps=2, guidance_scale=2.0, max_new_tokens=3)


@pytest.fixture(scope="module")
def editor() -> Any2PixEditor:
    return language(decoder=True, sampling=QUICK).eval().make_pipeline()


def pictures(*numbers: int, roles: str = "reference", source: bool = False, sound: bool = False) -> Any:
    """A sample whose attachments are flat pictures of these greys, behind a sound or not."""
    found = sample_at(0)
    heard = next(one for index in range(40) for one in sample_at(index)["attachments"] if one["kind"] == "audio")
    shown = [{"kind": "image", "role": roles, "data": Image.new("RGB", (64, 64), (n, n, n))} for n in numbers]
    found["attachments"] = [*([heard] if sound else []), *shown]
    found["instruction"] = "mix them"
    if not source:
        del found["source"]
        found.pop("reference_mask", None)
    return found


def with_base(editor: Any2PixEditor, said: torch.Tensor, chosen: Any) -> list[int]:
    """What is retrieved if H_base is this vector."""
    candidates = editor.candidates(chosen)
    return editor.retrieve(chosen, Understood(said, said, [], [], []), candidates).tolist()


@torch.no_grad()
def test_the_picture_that_the_language_model_means_is_edited(editor: Any2PixEditor):
    chosen = as_batch([pictures(10, 120, 250)])
    vectors = editor.encoder.attachments(chosen)[0]
    for number in range(3):
        assert with_base(editor, vectors[number : number + 1], chosen) == [number]
    edited = editor._pictures(chosen, torch.tensor([1]))
    assert torch.equal(edited[0], chosen["attachment_images"][0, 1])


@torch.no_grad()
def test_several_edits_follow_one_another_on_the_same_sample(editor: Any2PixEditor):
    several = as_batch([with_images(draw_several_sample(0, "test", index), picture) for index in range(2)])
    at_once, in_turn = (one(several, sample_generators(0, several["key"])) for one in (editor, InTurns(editor)))
    assert at_once.images.shape == in_turn.images.shape and not torch.equal(at_once.images, in_turn.images)
    assert at_once.extras["base"] == in_turn.extras["base"] == [SOURCE, SOURCE]


@torch.no_grad()
def test_a_sound_is_never_edited_even_where_it_is_what_is_meant(editor: Any2PixEditor):
    chosen = as_batch([pictures(10, 120, sound=True)])
    meant = editor.encoder.attachments(chosen)[:, 0]
    assert with_base(editor, meant, chosen)[0] in (1, 2)
    released = with_settings(editor, {"retrieval": "all"})
    with pytest.raises(RetrievalError, match=r"^sample 'multimodal-train-00000000': expected a picture to edit, found"):
        with_base(released, meant, chosen)


@torch.no_grad()
def test_a_source_is_edited_where_no_picture_is_attached(editor: Any2PixEditor):
    chosen = as_batch([pictures(source=True, sound=True)])
    output = editor(chosen, 0)
    assert output.extras["base"] == [-1]
    assert torch.equal(editor._pictures(chosen, torch.tensor([1]))[0], chosen["source"][0])


@torch.no_grad()
def test_without_any_picture_noise_alone_is_drawn_from(editor: Any2PixEditor):
    chosen = as_batch([pictures(sound=True)])
    output = editor(chosen, 0)
    assert output.extras["base"] == [None] and output.images.isfinite().all()
    assert torch.equal(with_settings(editor, {"alpha": 0.2, "beta": 3.0})(chosen, 0).images, output.images)


@torch.no_grad()
def test_alpha_of_1_leaves_nothing_to_the_seed_and_lower_ones_do(editor: Any2PixEditor):
    chosen = batch(0)
    kept = with_settings(editor, {"alpha": 1.0})
    assert torch.equal(kept(chosen, 0).images, kept(chosen, 1).images)
    assert not torch.equal(editor(chosen, 0).images, editor(chosen, 1).images)


@pytest.mark.parametrize(
    "changes",
    [
        {"beta": 1.0},
        {"prior_weight": 0.0},
        {"gen_weight": 0.0},
        {"aesthetic_score": 2.0},
        {"aesthetic_score": None},
        {"prior_guidance": 4.0},
        {"guidance_scale": 5.0},
        {"num_steps": 3},
    ],
)
@torch.no_grad()
def test_every_scalar_of_algorithm_1_counts(editor: Any2PixEditor, changes: dict[str, Any]):
    chosen = batch(0)
    assert (with_settings(editor, changes)(chosen, 0).images - editor(chosen, 0).images).abs().max() > 1e-4


@torch.no_grad()
def test_a_result_does_not_depend_on_the_batch_around_it(editor: Any2PixEditor):
    both = editor(batch(0, 1), [torch.Generator().manual_seed(seed) for seed in (0, 1)])
    for number in (0, 1):
        alone = editor(batch(number), [torch.Generator().manual_seed(number)])
        torch.testing.assert_close(alone.images[0], both.images[number], atol=2e-3, rtol=0)
        assert alone.texts[0] == both.texts[number]


@torch.no_grad()
def test_a_caption_is_written_or_given(editor: Any2PixEditor):
    given = with_settings(editor, {"response": "given"})
    assert (editor.response_source, given.response_source) == ("generated", "given")
    chosen = batch(0)
    assert given(chosen, 0).texts == [chosen["target_caption"][0]]
    assert "target_caption" in given.required_fields and given.idle_settings == ("max_new_tokens",)
    assert editor(chosen, 0).extras["forced"] == [True]  # three tokens are too few for a fresh model to end


@torch.no_grad()
def test_what_works_afterwards_gets_the_result(editor: Any2PixEditor):
    again = Any2PixEditor(
        editor.encoder,
        editor.reader,
        editor.prior,
        editor.decoder,
        QUICK,
        [lambda output, _batch, _generators: replace(output, images=-output.images)],
    )
    chosen = batch(0)
    assert torch.equal(again(chosen, 0).images, -editor(chosen, 0).images)


def test_a_placeholder_of_nothing_is_one_line(editor: Any2PixEditor):
    chosen = batch(0)
    chosen["instruction"] = ["add <audio:7> to <image:0>"]
    with pytest.raises(
        InstructionError, match=r"^sample 'multimodal-train-00000000': <audio:7> stands for no attached"
    ):
        editor(chosen, 0)


def test_settings_that_mix_nothing_are_refused():
    with pytest.raises(ValueError, match=r"^sampling: expected beta, prior_weight or gen_weight above 0"):
        Any2PixSampling(beta=0.0, prior_weight=0.0, gen_weight=0.0)
    with pytest.raises(ValueError, match=r"^sampling.alpha: expected a finite number in \[0, 1\]"):
        Any2PixSampling(alpha=1.5)


def test_a_phase_without_a_decoder_trains_and_says_what_editing_lacks():
    with pytest.raises(ValueError, match=r"^model.init_args.decoder: expected a decoder to draw with"):
        language().make_pipeline()


@torch.no_grad()
def test_it_is_exported_with_its_updates_and_another_decoder_takes_the_place_of_its_own(tmp_path: Path):
    found = language(LLM2Module, decoder=True, lora=LoRAConfig(rank=2), sampling=QUICK).eval()
    for name, parameter in found.reader.llm.named_parameters():
        if "lora_B" in name:
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    chosen = batch(0, 1)
    before = found.make_pipeline()(chosen, 3)
    found.export(tmp_path / "folder", {})
    settings = found.reader.config
    again = open_editor(str(tmp_path / "folder"), language=settings, sampling=QUICK)
    after = again(chosen, 3)
    torch.testing.assert_close(after.images, before.images, atol=2e-3, rtol=0)
    assert after.texts == before.texts
    other = open_editor(
        str(tmp_path / "folder"), decoder=decoder_folder("another-one"), language=settings, sampling=QUICK
    )
    swapped = other(chosen, 3)
    assert swapped.texts == before.texts and swapped.extras["base"] == before.extras["base"]
    assert (swapped.images - before.images).abs().max() > 1e-3
