"""Which text the denoiser's text encoder reads: the response, the instruction or nothing, in training and in edits."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.parts import MMSMConfig
from mmig.methods.mmig.pipeline import MMIGPipeline, SamplingConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage3
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.stages.support import build_stage, recorded, settled_stage, world_batch
from tests.terms import values_of
from tests.tiny_fixtures import TinyBackbones, build_all

WIRINGS = ("response", "instruction", "none")
BATCH = world_batch()
DRAWS = Draws(0, BATCH["position"])
FAST = SamplingConfig(num_steps=2, guidance_scale=2.0)
MMSM = MMSMConfig(dim=16, heads=2)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def stages(folders: TinyBackbones) -> dict[str, MMIGStage]:
    """Stage 1 in each wiring, of the same weights."""
    return {text: wired(folders, text) for text in WIRINGS}


def wired(folders: TinyBackbones, text: str, kind: type[MMIGStage] = Stage1, **more: object) -> MMIGStage:
    objective = ObjectiveConfig(denoiser_text=text, **more)
    return settled_stage(folders, kind, objective=objective, sampling=FAST, loss_weights={"sdm": 1.0, "mmsm": 0.01})


def read_texts(text: str) -> list[str]:
    return [""] * len(BATCH["key"]) if text == "none" else list(BATCH[text])


@torch.no_grad()
def clip_states(stage: MMIGStage, texts: list[str]) -> Tensor:
    """transformers' own, of padded texts."""
    model = stage.mmig
    encoded = model.tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    return model.text_encoder(encoded.input_ids).last_hidden_state


@pytest.mark.parametrize("text", WIRINGS)
def test_training_and_edits_read_it_alike(stages: dict[str, MMIGStage], text: str) -> None:
    stage = stages[text]
    expected = clip_states(stage, read_texts(text))
    with recorded(stage.mmig.unet) as training, torch.no_grad():
        values_of(stage, BATCH, DRAWS)
    torch.testing.assert_close(training[0].named["encoder_hidden_states"], expected)
    with recorded(stage.mmig.unet) as editing:
        output = stage.make_pipeline()(BATCH, 3)
    torch.testing.assert_close(editing[0].named["encoder_hidden_states"][:4], expected)
    assert output.texts == BATCH["response"]  # that is what the LLM wrote or was given


def test_the_response_reaches_the_denoiser_by_way_of_mmsm_in_every_wiring(stages: dict[str, MMIGStage]) -> None:
    """MMSM gets the response's states whatever the text is, and L_MMSM is of the same text and another map."""
    states = []
    for stage in stages.values():
        with recorded(stage.mmig.mmsm["mid_block"]) as calls, torch.no_grad():
            values_of(stage, BATCH, DRAWS)
        states.append(calls[0].inputs[1])
    assert torch.equal(states[0], states[1]) and torch.equal(states[0], states[2])


def test_the_default_is_the_papers(folders: TinyBackbones, stages: dict[str, MMIGStage]) -> None:
    assert ObjectiveConfig().denoiser_text == "response"
    with torch.no_grad():
        default = values_of(settled_stage(folders, Stage1), BATCH, DRAWS)["sdm"]
        found = {text: values_of(stage, BATCH, DRAWS)["sdm"] for text, stage in stages.items()}
    assert torch.equal(found["response"], default)
    assert not torch.equal(found["instruction"], default) and not torch.equal(found["none"], default)


def test_dropped_samples_read_nothing_in_any_wiring(folders: TinyBackbones) -> None:
    stage = wired(folders, "instruction", Stage3, condition_drop=0.3)
    text, _ = stage.mmig.drops(DRAWS)
    assert 0 < text.sum() < 4
    expected = clip_states(stage, ["" if gone else own for gone, own in zip(text, BATCH["instruction"], strict=True)])
    with recorded(stage.mmig.unet) as calls, torch.no_grad():
        values_of(stage, BATCH, DRAWS)
    torch.testing.assert_close(calls[0].named["encoder_hidden_states"], expected)


def test_what_may_be_cached_is_the_text_that_is_read(stages: dict[str, MMIGStage]) -> None:
    found = {
        text: {name for name in stage.features.names if name.startswith("text.")} for text, stage in stages.items()
    }
    assert found == {"response": {"text.response"}, "instruction": {"text.instruction"}, "none": set()}


def test_concepts_are_looked_for_in_the_text_that_is_read(folders: TinyBackbones) -> None:
    stage = wired(folders, "instruction", Stage3)
    losses = Losses(stage.mmig, BATCH, DRAWS, ("as",))
    assert losses.texts == BATCH["instruction"]
    words = [sum(word in text for word in words) for text, words in zip(losses.texts, BATCH["concepts"], strict=True)]
    assert losses.num_concepts.tolist() == words


@pytest.mark.parametrize("text", WIRINGS)
def test_an_exported_model_reads_what_it_was_trained_with(
    stages: dict[str, MMIGStage], tmp_path: Path, text: str
) -> None:
    stage = stages[text].eval()
    before = stage.make_pipeline()(BATCH, 3).images
    stage.make_pipeline().pipeline.save_pretrained(tmp_path / "folder")
    pipeline = MMIGPipeline.from_pretrained(tmp_path / "folder")
    assert pipeline.config.denoiser_text == text and pipeline.model.objective.denoiser_text == text
    assert torch.equal(pipeline.edit(BATCH["source"], BATCH["instruction"], BATCH["response"], FAST, 3).images, before)


def test_a_long_instruction_that_is_read_is_said_to_be_cut(stages: dict[str, MMIGStage]) -> None:
    long = " ".join(["red circle"] * 60)
    for text, names in (("instruction", ["instruction"]), ("response", []), ("none", [])):
        cut = stages[text].make_pipeline().pipeline.edit(BATCH["source"][:1], [long], ["a red circle"], FAST, 3)
        assert [one.name for one in cut.extras["cut"][0]] == names


def test_what_cannot_be_is_refused_in_a_line(folders: TinyBackbones, stages: dict[str, MMIGStage]) -> None:
    with pytest.raises(
        ValueError, match=r"objective\.denoiser_text: expected one of response, instruction, none, found"
    ):
        ObjectiveConfig(denoiser_text="caption")
    with pytest.raises(ValueError, match=r"'as' and 'ar' .* found objective\.denoiser_text none; give loss_weights"):
        build_stage(folders, Stage3, objective=ObjectiveConfig(denoiser_text="none"))
    pipeline = stages["none"].make_pipeline().pipeline
    with pytest.raises(ValueError, match=r"attention of concepts: .* found objective\.denoiser_text none"):
        pipeline.edit(BATCH["source"], BATCH["instruction"], BATCH["response"], FAST, 3, return_attention=True)
