"""What an edit hands from part to part: ids, states, steps, precision."""

import pytest
import torch

from mmig.language.sequences import response_ids
from mmig.methods.mmig.editor import SamplingConfig
from mmig.methods.mmig.pipeline import MMIGPipeline
from mmig.methods.mmig.stages.paper import Stage3
from tests.mmig.methods.mmig.pipeline_support import FAST, TEXT, build, seeded, source
from tests.mmig.methods.mmig.stages.support import build_stage, recorded, world_batch
from tests.tiny_fixtures import TinyBackbones, build_all

INSTRUCTIONS = ["make it red", "remove the large square"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def whole(folders: TinyBackbones) -> MMIGPipeline:
    return build(folders, concat=True, whole=True, trained=True)


def test_mmsm_gets_the_states_of_the_generated_ids_on_the_branch_with_text(whole: MMIGPipeline) -> None:
    """Never those of the text written and read again, which has other ids; once a step, other branches inactive."""
    model, pictures = whole.model, source(2)
    with torch.no_grad():
        ids = model.mllm.generate(INSTRUCTIONS, pictures)
        texts = model.mllm.decode(ids)
        expected = model.mllm.states_of_ids(INSTRUCTIONS, ids, pictures)
    assert response_ids(model.mllm.tokenizer, texts, 8) != ids
    with recorded(model.mmsm["mid_block"]) as calls:
        output = whole.edit(pictures, INSTRUCTIONS, None, FAST, [seeded(1), seeded(2)])
    assert output.texts == texts
    assert len(calls) == FAST.num_steps
    for call in calls:
        _, states, mask = call.inputs
        assert states.shape[0] == 6  # branches: full, image, null
        assert torch.equal(states[:2], expected.states)
        assert torch.equal(mask[:2].bool(), expected.mask) and mask[:2].any()
        assert not mask[2:].any()


def test_img2img_takes_the_part_of_the_steps_that_strength_says(folders: TinyBackbones) -> None:
    plain = build(folders, concat=False, whole=False, trained=False)
    for num_steps, strength, expected in ((10, 0.35, 3), (10, 1.0, 10), (7, 0.5, 3), (4, 0.2, 0)):
        with recorded(plain.unet) as calls:
            plain.edit(source(), ["x"], [TEXT], SamplingConfig(num_steps=num_steps, strength=strength), [seeded()])
        assert len(calls) == expected, (num_steps, strength)


@pytest.mark.parametrize("attention_guidance", [0.0, 5.0])
def test_a_trained_denoiser_gets_latents_that_were_not_rounded(
    folders: TinyBackbones, attention_guidance: float
) -> None:
    stage = build_stage(folders, Stage3, dtype="bfloat16", sampling=SamplingConfig(num_steps=2))
    stage.sampling.attention_guidance = attention_guidance
    with recorded(stage.mmig.unet) as calls:
        output = stage.make_pipeline()(world_batch((0,)), [seeded()])
    assert output.images.isfinite().all()
    assert calls
    for call in calls:
        latents = call.inputs[0][:, :4]
        assert latents.dtype == torch.float32
        assert not torch.equal(latents, latents.bfloat16().float())
