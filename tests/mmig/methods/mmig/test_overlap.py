"""The overlap of concepts as a measure of edited images."""

import pytest
import torch
from diffusers import DDPMScheduler

from mmig.diffusion.attention import capture_attention
from mmig.diffusion.concepts import locate_concepts
from mmig.methods.mmig.attention_losses import concept_maps
from mmig.methods.mmig.editor import MMIGEditor, SamplingConfig
from mmig.methods.mmig.overlap import LEVELS, TOO_FEW, ConceptOverlap
from mmig.methods.mmig.pipeline import MMIGPipeline
from mmig.metrics.bank import FeatureBank
from mmig.training.rng import generator
from tests.mmig.methods.mmig.pipeline_support import build, seeded
from tests.mmig.methods.mmig.stages.support import world_batch
from tests.tiny_fixtures import build_all

SAMPLING = SamplingConfig(num_steps=2, guidance_scale=1.0, image_guidance_scale=1.0, measure_overlap=True)
TEXTS = ["a blue circle and a red square", "a blue circle"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> MMIGPipeline:
    return build(build_all(tmp_path_factory.mktemp("tiny")), concat=True, whole=False, trained=True)


@torch.no_grad()
def test_it_is_the_mean_overlap_of_pairs_at_fixed_levels_of_noise(pipeline: MMIGPipeline) -> None:
    batch = world_batch((0, 1))
    output = pipeline.edit(batch["source"], ["x", "y"], TEXTS, SAMPLING, [seeded(5), seeded(6)])
    found = output.extras["concept_overlap"]
    assert found[1].isnan() and 0 < found[0] < 0.5
    model, scheduler = pipeline.model, DDPMScheduler.from_config(pipeline.scheduler.config)
    latents = model.vae.encode(output.images[:1]).latent_dist.mode() * model.vae.config.scaling_factor
    source = model.vae.encode(batch["source"][:1]).latent_dist.mode()
    tokens = model.encode_text(TEXTS[:1])
    concepts = locate_concepts(model.tokenizer, TEXTS[:1], [["circle", "square"]])
    states = model.mllm.states_of_ids(["x"], [model.mllm.tokenizer(TEXTS[0], add_special_tokens=False).input_ids[:8]])
    overlaps = []
    for level in LEVELS:
        timesteps = torch.tensor([int(1000 * level)])
        noise = torch.randn(latents.shape[1:], generator=generator(5, "concept overlap", str(level)))[None]
        noisy = torch.cat([scheduler.add_noise(latents, noise, timesteps), source], dim=1)
        hook = model.unet.mid_block.register_forward_hook(
            lambda _m, _i, e1, mixer=model.mmsm["mid_block"]: mixer(e1, states.states, states.mask).feature_map
        )
        with capture_attention(model.unet, (16, 16)) as capture:
            model.unet(noisy, timesteps, encoder_hidden_states=tokens)
        hook.remove()
        first, second = concept_maps(capture.average(), concepts).maps[0]
        overlaps.append(torch.minimum(first, second).sum() / (first + second).sum())
    torch.testing.assert_close(found[0], torch.stack(overlaps).mean(), rtol=1e-3, atol=1e-4)


def test_the_metric_reads_it_and_says_why_a_sample_has_none(pipeline: MMIGPipeline) -> None:
    batch = world_batch((0, 1)) | {"response": TEXTS}
    output = MMIGEditor(pipeline, SAMPLING)(batch, 3)
    scored = ConceptOverlap().values(FeatureBank(batch, output.images, extras=output.extras))
    assert scored.reasons == [None, TOO_FEW] and not ConceptOverlap.higher_is_better
    with pytest.raises(ValueError, match=r"concept_overlap: .*; give --sampling measure_overlap=true"):
        ConceptOverlap().values(FeatureBank(batch, output.images))


def test_measuring_changes_no_edit(pipeline: MMIGPipeline) -> None:
    batch = world_batch((0,))
    plain = SamplingConfig(num_steps=2, guidance_scale=1.0, image_guidance_scale=1.0)
    found = [pipeline.edit(batch["source"], ["x"], TEXTS[:1], each, 3).images for each in (plain, SAMPLING)]
    assert torch.equal(*found)
