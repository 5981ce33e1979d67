"""Connectors in the place of MMSM: what trains, how large their tokens start, and how runs with them go on."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.checkpoints.checkpoint import init_weights, read_start
from mmig.language.sequences import ResponseStates
from mmig.methods.mmig.attention_losses import concept_maps
from mmig.methods.mmig.connectors import Connectors
from mmig.methods.mmig.layered_editor import LayeredEditor
from mmig.methods.mmig.layered_sampling import LayeredSampling
from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.parts import MMSMConfig
from mmig.methods.mmig.pipeline import MMIGPipeline, SamplingConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage3
from mmig.methods.mmig.token_connectors.connector import ConnectorSettings
from mmig.methods.mmig.token_connectors.mlp import MLP
from mmig.methods.mmig.token_connectors.queries import LearnedQueries
from mmig.methods.mmig.token_connectors.refiner import Refiner
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.golden.samples import loader
from tests.mmig.methods.mmig.stages.support import build_stage, recorded, world_batch
from tests.terms import values_of
from tests.tiny_fixtures import TinyBackbones, build_all

KINDS = {"mlp": MLP(), "refiner": Refiner(dim=16, heads=2), "queries": LearnedQueries(number=4, dim=16, heads=2)}
SDM = {"sdm": 1.0}
NONE = MMSMConfig(locations=[])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


def stage_with(folders: TinyBackbones, connector: ConnectorSettings, kind: Any = Stage1, **more: Any) -> MMIGStage:
    settings = {"mmsm": None, "loss_weights": SDM, "sampling": SamplingConfig(num_steps=2, guidance_scale=2.0)} | more
    return build_stage(folders, kind, connector=connector, **settings)


def train(stage: MMIGStage, steps: int = 1, **more: Any) -> L.Trainer:
    trainer = L.Trainer(
        max_epochs=-1,
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        check_val_every_n_epoch=None,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(stage, loader(0, steps), **more)
    return trainer


def sizes(stage: MMIGStage, batch: Batch) -> tuple[Tensor, Tensor]:
    """Root mean square of the connector's tokens and of the text encoder's states, of samples with a response."""
    model, rows = stage.mmig, batch["has_response"]
    with torch.no_grad():
        tokens, counts = model.connector(*model.answer(batch).states, stage.timesteps(Draws(0, batch["position"])))
        text = model.encode_text(batch["response"])
    return tokens[rows][counts[rows]].square().mean().sqrt(), text[rows].square().mean().sqrt()


def test_without_any_connector_the_denoiser_is_the_unet_to_the_bit(folders: TinyBackbones) -> None:
    model, batch = build_stage(folders, Stage3, mmsm=NONE, loss_weights=SDM).mmig, world_batch()
    condition = model.condition(batch["response"], batch["source"], batch["has_source"])
    noisy, timesteps = torch.randn(4, 4, 16, 16), torch.tensor([10, 300, 600, 990])
    with torch.no_grad():
        found, _ = model.denoise(noisy, timesteps, condition, model.answer(batch).states)
        inputs = torch.cat([noisy, condition.image_latents], dim=1)
        expected = model.unet(inputs, timesteps, encoder_hidden_states=condition.tokens).sample
    assert torch.equal(found, expected)


def test_a_stage_without_any_connector_trains_measures_and_edits(folders: TinyBackbones) -> None:
    stage = build_stage(folders, Stage3, mmsm=NONE, loss_weights={"sdm": 1.0, "fg": 1.0})
    train(stage)
    assert stage.outcome.taken and stage.logged() == {}
    assert {name.split(".")[1] for name, p in stage.named_parameters() if p.requires_grad} == {"unet"}
    assert stage.make_pipeline()(world_batch((0,)), 0).images.isfinite().all()


@pytest.mark.parametrize("place", ["replace", "append"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_noise_loss_reaches_every_parameter_within_two_steps(folders: TinyBackbones, kind: str, place: str) -> None:
    stage, batch = stage_with(folders, type(KINDS[kind])(**{**vars(KINDS[kind]), "place": place})), world_batch()
    trained = {name: p for name, p in stage.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("mmig.connector.") for name in trained)
    for _ in range(2):
        stage.zero_grad()
        values_of(stage, batch, Draws(0, batch["position"]))["sdm"].sum().backward()
        with torch.no_grad():
            for parameter in trained.values():
                parameter -= parameter.grad
    # adding one number to every key of an attention changes no softmax
    assert [name for name, p in trained.items() if not p.grad.any() and not name.endswith("key.bias")] == []


def test_the_denoiser_gets_the_tokens_in_place_of_the_text_or_behind_it(folders: TinyBackbones) -> None:
    for place in ("replace", "append"):
        stage, batch = stage_with(folders, MLP(place=place), Stage3), world_batch()
        model = stage.mmig
        with recorded(model.unet) as calls, torch.no_grad():
            values_of(stage, batch, Draws(0, batch["position"]))
            states = model.answer(batch).states
            tokens, counts = model.connector(*states, stage.timesteps(Draws(0, batch["position"])))
            text = model.encode_text(batch["response"])
        got, mask = (calls[0].named[name] for name in ("encoder_hidden_states", "encoder_attention_mask"))
        for row in range(4):
            expected = torch.cat([*([text[row]] if place == "append" else []), tokens[row][counts[row]]])
            torch.testing.assert_close(got[row][mask[row]], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_before_the_first_step_the_tokens_are_as_large_as_the_text_states(folders: TinyBackbones, kind: str) -> None:
    stage = stage_with(folders, KINDS[kind], optimizer=OptimizerConfig(lr=0.0), micro_batch_size=2)
    batch = next(iter(loader(0, 1)))
    (norm,) = (p for name, p in stage.mmig.text_encoder.named_parameters() if name.endswith("final_layer_norm.weight"))
    norm.data *= 3
    made, text = sizes(stage, batch)
    assert abs(made / text - 1) > 0.02
    assert stage.mmig.connector.scale == 0
    train(stage)
    made, text = sizes(stage, batch)
    torch.testing.assert_close(made, text, rtol=1e-4, atol=0)


def test_the_size_is_measured_once_and_goes_with_the_weights(folders: TinyBackbones, tmp_path: Path) -> None:
    first = stage_with(folders, KINDS["mlp"])
    trainer = train(first)
    scale = first.mmig.connector.scale.clone()
    assert scale > 0 and "mmig.connector.scale" in first.stored_names()
    trainer.save_checkpoint(tmp_path / "one.ckpt", weights_only=False)
    with torch.no_grad():  # were it measured again, it would be another one
        first.mmig.connector.layers[0].weight *= 3
    train(first, 2)
    assert torch.equal(first.mmig.connector.scale, scale)
    later = stage_with(folders, KINDS["mlp"], Stage3)
    assert init_weights(later, read_start(later, tmp_path / "one.ckpt")) == []
    with torch.no_grad():
        later.mmig.connector.layers[0].weight *= 3
    train(later)
    assert torch.equal(later.mmig.connector.scale, scale)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_opened_it_edits_the_same_to_the_bit(folders: TinyBackbones, tmp_path: Path, kind: str) -> None:
    stage, batch = stage_with(folders, KINDS[kind]), world_batch((0, 1))
    stage.mmig.connector.scale.fill_(1.7)
    stage.eval()
    before = stage.make_pipeline()(batch, 3).images
    stage.make_pipeline().pipeline.save_pretrained(tmp_path / "folder")
    pipeline = MMIGPipeline.from_pretrained(tmp_path / "folder")
    assert pipeline.connectors.connector.settings == KINDS[kind] and len(pipeline.connectors.mmsm) == 0
    responses = batch["response"]
    after = pipeline.edit(batch["source"], batch["instruction"], responses, stage.sampling, 3).images
    assert torch.equal(before, after)
    without = SamplingConfig(num_steps=2, guidance_scale=2.0, use_mmsm=False)
    assert not torch.equal(pipeline.edit(batch["source"], batch["instruction"], responses, without, 3).images, after)


def test_switched_off_it_leaves_the_unet_under_its_text(folders: TinyBackbones) -> None:
    plain = build_stage(folders, Stage3, mmsm=NONE, loss_weights=SDM).mmig
    for place in ("replace", "append"):
        model, batch = stage_with(folders, MLP(place=place)).mmig, world_batch()
        condition = model.condition(batch["response"], batch["source"], batch["has_source"])
        noisy, states = torch.randn(4, 4, 16, 16), model.answer(batch).states
        off = torch.zeros(4, dtype=torch.bool)
        with torch.no_grad():
            found, _ = model.denoise(noisy, torch.tensor(500), condition, states, off)
            expected, _ = plain.denoise(noisy, torch.tensor(500), condition, states)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_layered_edits_and_their_losses_keep_their_phrases(folders: TinyBackbones) -> None:
    """Eq 15 to 18 put e_opt where the text stands: tokens in place of the text leave it, tokens behind it stay."""
    weights, batch = {"sdm": 1.0, "fg": 1.0}, world_batch()
    for place in ("replace", "append"):
        stage = stage_with(folders, MLP(place=place), Stage3, loss_weights=weights)
        with recorded(stage.mmig.unet) as calls, torch.no_grad():
            values_of(stage, batch, Draws(0, batch["position"]))
            phrases = (stage.mmig.encode_text(batch[name]) for name in ("object_phrase", "background_phrase"))
            mixed = sum(weight * part for weight, part in zip((0.7, 0.3), phrases, strict=True))
        got = calls[1].named["encoder_hidden_states"]
        torch.testing.assert_close(got[:, :77], mixed)
        assert calls[1].named["encoder_attention_mask"][:, 77:].any() == (place == "append")
        editor = LayeredEditor(stage.make_pipeline().pipeline, LayeredSampling(num_steps=2, inner_steps=1))
        assert editor(world_batch((0,)), 0).images.isfinite().all()


def test_the_attention_of_concepts_is_that_to_the_text_before_the_tokens(folders: TinyBackbones) -> None:
    """In eq 19 and 20, while sampling, and as a measure."""
    stage = stage_with(folders, MLP(place="append"), Stage3, loss_weights={"as": 1.0, "ar": 1.0})
    model, batch = stage.mmig, world_batch()
    losses = Losses(model, batch, Draws(0, batch["position"]), ("as", "ar"))
    assert losses.a.attention.shape[1] > 77
    torch.testing.assert_close(losses.maps.maps, concept_maps(losses.a.attention[:, :77], losses.concepts).maps)
    values = losses.terms()
    assert all(values[name].values.isfinite().all() for name in ("as", "ar"))
    sampling = SamplingConfig(num_steps=2, guidance_scale=2.0, attention_guidance=1.0, measure_overlap=True)
    pipeline, pictures = stage.make_pipeline().pipeline, batch["source"][:2]
    texts = (batch["instruction"][:2], batch["response"][:2])
    output = pipeline.edit(pictures, *texts, sampling, 3, return_attention=True)
    assert output.extras["attention"].maps.isfinite().all() and output.extras["concept_overlap"].isfinite().all()


def test_what_does_not_go_together_is_told_in_a_line(folders: TinyBackbones) -> None:
    mlp, attention = MLP(), {"sdm": 1.0, "as": 1.0}
    refused = [
        ({"connector": mlp, "mmsm": MMSMConfig(dim=16, heads=2)}, r"mmsm and connector: .* found MMSM at mid_block"),
        ({"connector": mlp, "mmsm": None, "loss_weights": {"mmsm": 1.0}}, r"'mmsm' is MMSM's own loss, found the co"),
        ({"mmsm": NONE}, r"'mmsm' is MMSM's own loss, found mmsm\.locations \[\]"),
        ({"mmsm": NONE, "loss_weights": SDM}, r"Stage1 trains the connector alone, and mmsm\.locations is \[\]"),
        ({"connector": mlp, "mmsm": None, "loss_weights": attention}, r"'as' and 'ar' .* connector\.place replace"),
    ]
    for settings, said in refused:
        with pytest.raises(ValueError, match=said) as caught:
            build_stage(folders, Stage1, **settings)
        assert "\n" not in str(caught.value)
    pipeline = stage_with(folders, mlp).make_pipeline().pipeline
    with pytest.raises(ValueError, match=r"attention of concepts: .* found connector\.place replace"):
        pipeline.edit(world_batch((0,))["source"], ["x"], ["a red circle"], pipeline_sampling(), return_attention=True)


def test_without_language_model_and_text_nothing_would_say_what_to_do(folders: TinyBackbones) -> None:
    mute = stage_with(folders, MLP(), objective=ObjectiveConfig(denoiser_text="none")).make_pipeline().pipeline
    pipeline = MMIGPipeline(**mute.components | {"llm": None, "llm_tokenizer": None}, **mute.parameters)
    with pytest.raises(
        ValueError, match=r"no LLM, and a denoiser that reads no text .* load the pipeline with"
    ) as told:
        pipeline.edit(world_batch((0,))["source"], ["x"], ["a red circle"], pipeline_sampling())
    assert "\n" not in str(told.value)


def pipeline_sampling() -> SamplingConfig:
    return SamplingConfig(num_steps=1)


def test_a_folder_of_before_there_were_others_still_opens() -> None:
    """Its configuration names neither a connector nor the width of tokens."""
    old = {"text_dim": 8, "feature_dims": {"mid_block": 16}, "dim": 8, "heads": 2, "llm_layers": 1}
    connectors = Connectors.from_config(old)
    assert connectors.connector is None and set(connectors.mmsm) == {"mid_block"}


def test_states_of_a_model_without_language_model_leave_the_text(folders: TinyBackbones) -> None:
    model = stage_with(folders, MLP()).mmig
    condition = model.condition(["a"], torch.zeros(1, 3, 64, 64), torch.ones(1, dtype=torch.bool))
    nothing = ResponseStates(torch.zeros(1, 2, model.mllm.llm.config.hidden_size), torch.zeros(1, 2, dtype=torch.bool))
    found = model.connector.condition(condition, nothing, torch.tensor([1]))
    assert torch.equal(found.tokens, condition.tokens) and found.mask.all()
