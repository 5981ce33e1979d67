"""The layered edit as an editor: what it reads of a batch, what it gives, and that it leaves the model as it was."""

from dataclasses import asdict, replace

import pytest
import torch

from datamodules.schema import Batch
from mmig.base.texts import CutText
from mmig.evaluation.overrides import with_sampling
from mmig.methods.mmig.editor import MMIGEditor
from mmig.methods.mmig.layered_editor import LayeredEditor, split_response
from mmig.methods.mmig.layered_sampling import LayeredSampling
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.pipeline import MMIGPipeline
from tests.mmig.batches import edit_batch
from tests.mmig.methods.mmig.layered_support import listen, seeds
from tests.mmig.methods.mmig.pipeline_support import FAST, build
from tests.mmig.methods.mmig.stages.support import recorded
from tests.tiny_fixtures import TinyBackbones, build_all

SAMPLING = LayeredSampling(**asdict(FAST), inner_steps=3, lr=0.05)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def plain(folders: TinyBackbones) -> MMIGPipeline:
    """Starts from the noised source; MMSM and adapters are at work."""
    pipeline = build(folders, concat=False, whole=False, trained=True)
    listen(pipeline.unet)
    return pipeline


@pytest.fixture(scope="module")
def whole(folders: TinyBackbones) -> MMIGPipeline:
    """Sees the source beside the noise; an LLM that sees, and a captioner."""
    pipeline = build(folders, concat=True, whole=True, trained=True)
    listen(pipeline.unet)
    return pipeline


def bits(model: MMIG) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_untouched(model: MMIG, before: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.unet.modules())


@pytest.mark.parametrize("kind", ["plain", "whole"])
def test_eq_15_falls_and_no_bit_of_the_model_changes(kind: str, request: pytest.FixtureRequest) -> None:
    pipeline: MMIGPipeline = request.getfixturevalue(kind)
    model, batch = pipeline.model, edit_batch(2)
    pipeline.unet.requires_grad_(True)  # as in a run that trains it
    before, sampling = bits(model), replace(SAMPLING, inner_steps=8)
    output = LayeredEditor(pipeline, sampling)(batch, seeds(1, 2))
    pipeline.unet.requires_grad_(False)
    assert_untouched(model, before)
    first, last = output.extras["layered_loss"]
    assert (last < 0.999 * first).all()
    assert output.images.shape == batch["source"].shape and output.images.abs().max() <= 1
    assert output.texts == batch["response"]
    assert len(output.extras.get("captions", [])) == (2 if kind == "whole" else 0)


@pytest.mark.parametrize("call", [2, 20])  # while eq 15 is measured, and in its steps
def test_an_error_on_the_way_leaves_nothing_behind(plain: MMIGPipeline, call: int) -> None:
    model, batch, editor = plain.model, edit_batch(1), LayeredEditor(plain, replace(SAMPLING, inner_steps=20))
    before = bits(model)
    calls: list[None] = []

    def fail(*_: object) -> None:
        calls.append(None)
        if len(calls) == call:
            raise RuntimeError("out of memory")

    with plain.unet.register_forward_hook(fail), pytest.raises(RuntimeError, match="out of memory"):
        editor(batch, seeds(1))
    assert_untouched(model, before)


@pytest.mark.parametrize("kind", ["plain", "whole"])
def test_without_inner_steps_and_mixture_it_is_the_usual_edit(kind: str, request: pytest.FixtureRequest) -> None:
    pipeline: MMIGPipeline = request.getfixturevalue(kind)
    batch = edit_batch(2) | {"object_phrase": edit_batch(2)["response"], "background_phrase": ["a", "b"]}
    settings = replace(SAMPLING, inner_steps=0, num_steps=3)
    same = LayeredEditor(pipeline, replace(settings, alpha=1.0))(batch, seeds(1, 2))
    usual = MMIGEditor(pipeline, replace(FAST, num_steps=3))(batch, seeds(1, 2))
    torch.testing.assert_close(same.images, usual.images, atol=1e-5, rtol=0)
    mixed = LayeredEditor(pipeline, replace(settings, alpha=0.3))(batch, seeds(1, 2))
    assert (mixed.images - usual.images).abs().max() > 1e-4


def test_a_sample_does_not_depend_on_its_batch(plain: MMIGPipeline) -> None:
    editor, batch = LayeredEditor(plain, SAMPLING), edit_batch(2)
    together = editor(batch, seeds(1, 2))
    alone = editor(_second(batch), seeds(2))
    torch.testing.assert_close(together.images[1:], alone.images, atol=2e-3, rtol=0)
    torch.testing.assert_close(together.extras["layered_loss"][:, 1:], alone.extras["layered_loss"])
    assert (editor(_second(batch), seeds(3)).images - alone.images).abs().max() > 1e-2


def _second(batch: Batch) -> Batch:
    return {name: value[1:] if len(value) == 2 else value for name, value in batch.items()}


def test_the_phrases_of_the_data_come_before_those_of_the_response(plain: MMIGPipeline) -> None:
    batch = edit_batch(2) | {"object_phrase": ["a star", ""], "background_phrase": ["", "the sky"]}
    output = LayeredEditor(plain, replace(SAMPLING, inner_steps=0))(batch, seeds(1, 2))
    assert output.extras["layers"] == [("a star", "on a white background"), ("a blue square", "the sky")]
    with recorded(plain.text_encoder) as calls:
        LayeredEditor(plain, replace(SAMPLING, inner_steps=0))(batch, seeds(1, 2))
    read = [plain.tokenizer.batch_decode(call.inputs[0], skip_special_tokens=True) for call in calls]
    assert ["a star", "a blue square"] in read and ["on a white background", "the sky"] in read


def test_a_phrase_is_read_to_the_end_of_one_chunk_and_the_rest_is_told(folders: TinyBackbones) -> None:
    """However many chunks the usual edit reads of a response."""
    made = build(folders, concat=False, whole=False, trained=False)
    pipeline = MMIGPipeline(**made.components, **made.parameters | {"max_text_chunks": 2})
    pipeline.set_progress_bar_config(disable=True)
    batch = edit_batch(1) | {"object_phrase": [" ".join(["circle"] * 80)], "background_phrase": ["the sky"]}
    output = LayeredEditor(pipeline, replace(SAMPLING, inner_steps=0))(batch, seeds(1))
    assert output.extras["cut"] == [[CutText("object_phrase", "text encoder", 80, 75)]]


def test_eq_15_compares_inside_the_mask_and_all_over_where_there_is_none(plain: MMIGPipeline) -> None:
    batch, inside = edit_batch(2), torch.zeros(2, 1, 64, 64)
    inside[:, :, :32] = 1

    def losses(mode: str, **masks: torch.Tensor) -> torch.Tensor:
        editor = LayeredEditor(plain, replace(SAMPLING, inner_steps=0, mask_mode=mode))
        return editor(batch | masks, seeds(1, 2)).extras["layered_loss"][0]

    everywhere = losses("object")
    one = {"reference_mask": inside, "has_reference_mask": torch.tensor([True, False])}
    for mode in ("object", "background"):
        found = losses(mode, **one)
        assert 0 < found[0] < 0.9 * everywhere[0] and found[1] == everywhere[1]
    assert torch.equal(losses("all", **one), everywhere)
    torch.testing.assert_close(losses("object", **one)[0] + losses("background", **one)[0], everywhere[0])


def test_the_editor_of_a_run_edits_in_layers_with_its_settings(plain: MMIGPipeline) -> None:
    own = MMIGEditor(plain, replace(FAST, guidance_scale=2.0, response="generated"))
    editor = with_sampling(own.layered(), ["inner_steps=0", "alpha=0.5"])
    assert isinstance(editor, LayeredEditor) and editor.pipeline is plain
    assert editor.sampling == LayeredSampling(
        **asdict(replace(FAST, guidance_scale=2.0, response="generated")), inner_steps=0, alpha=0.5
    )
    assert (editor.response_source, editor.required_fields) == ("generated", ("source", "instruction"))
    output = editor(edit_batch(1), torch.Generator().manual_seed(1))
    assert output.texts[0] and output.texts[0] != edit_batch(1)["response"][0]


def test_what_is_about_the_concepts_of_the_response_is_refused(plain: MMIGPipeline) -> None:
    refused = [
        ({"attention_guidance": 5.0}, "expected 0, found 5: give --sampling attention_guidance=0"),
        ({"measure_overlap": True}, "expected false, found true: give --sampling measure_overlap=false"),
    ]
    for settings, said in refused:
        with pytest.raises(ValueError, match=said):
            MMIGEditor(plain, replace(FAST, **settings)).layered()(edit_batch(1), seeds(1))


@pytest.mark.parametrize(
    ("response", "instruction", "expected"),
    [
        ("a red ball on the wet beach", "make the ball red", ("a red ball", "on the wet beach")),
        ("The beach, and on it a dog.", "let the dog run", ("a dog", "The beach, and on it")),
        ("a cat and a dog on grass", "x", ("a cat", "and a dog on grass")),
        ("a cat", "x", ("a cat", "")),
        ("Two Red Balls, striped-silver cars", "move the cars", ("striped-silver cars", "Two Red Balls")),
        ("the large red ball running", "x", ("the large red ball", "running")),
        ("red and blue", "x", ("red and blue", "")),
        ("", "x", ("", "")),
    ],
)
def test_phrases_are_guessed_from_the_response(response: str, instruction: str, expected: tuple[str, str]) -> None:
    assert split_response(response, instruction) == expected
