"""Training of UMM-Diffusion: the loss, what trains in which phase, what counts, and what is cached."""

from typing import Any

import pytest
import torch

from mmig.backbones.parts import BackboneError
from mmig.checkpoints.checkpoint import init_weights
from mmig.diffusion.text import encode_text
from mmig.methods.umm_diffusion.encoder import unified_states
from mmig.methods.umm_diffusion.module import UMMDiffusionModule
from mmig.methods.umm_diffusion.words import place_subjects
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.umm_diffusion.support import (
    EMBEDDING_WIDTH,
    as_batch,
    batch,
    captioned,
    folders,
    module,
    picture,
)
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import build_clip_vision, build_instruct_pix2pix


def draws(of: Any, seed: int = 0) -> Draws:
    return Draws(seed, of["position"])


def step(trained: Any, of: Any, lr: float = 1e-3) -> dict[str, torch.Tensor]:
    """Weights of before one step of Adam."""
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=lr)
    values_of(trained, of, draws(of))["sdm"].mean().backward()
    optimizer.step()
    return before


@pytest.mark.parametrize("phase", [1, 2])
def test_only_what_the_phase_trains_moves(phase: int) -> None:
    trained, of = module(phase), batch(*range(6))
    before = step(trained, of)
    moved = {name.split(".")[0] for name, value in trained.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == ({"pseudo_word"} if phase == 1 else {"pseudo_word", "unet"})
    stored = {name.split(".")[0] for name in trained.stored_names()}
    assert stored == moved


def test_every_part_of_the_mlp_gets_a_gradient_where_no_sample_drew_a_picture() -> None:
    trained, of = module(1, subject_share=0.0), batch(0, 1)
    values_of(trained, of, draws(of))["sdm"].mean().backward()
    gradients = [parameter.grad for parameter in trained.pseudo_word.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize(("drop", "share", "kind"), [(1.0, 0.6, "null"), (0.0, 1.0, "unified"), (0.0, 0.0, "text")])
def test_the_loss_is_the_noise_loss_under_the_drawn_condition(drop: float, share: float, kind: str) -> None:
    trained, of = module(1, drop=drop, subject_share=share, target_latents="mode"), batch(0, 1, 2)
    found = values_of(trained, of, draws(of))["sdm"]
    placed = place_subjects(trained.tokenizer, of, "target_caption", "last")
    pixels = torch.nn.functional.interpolate(
        of["attachment_images"].flatten(0, 1), (32, 32), mode="bicubic", antialias=True
    )
    mean, std = torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1), torch.tensor([0.2, 0.3, 0.25]).view(3, 1, 1)
    with torch.no_grad():
        embedded = trained.image_encoder.tower(pixel_values=((pixels + 1) / 2 - mean) / std).image_embeds
        v = trained.pseudo_word(embedded).unflatten(0, (3, -1))
        states = {
            "null": encode_text(trained.text_encoder, trained.tokenizer, [""] * 3)[0],
            "text": encode_text(trained.text_encoder, trained.tokenizer, placed.texts)[0],
            "unified": unified_states(trained.text_encoder, placed.ids, placed.owner, v).unified,
        }[kind]
        clean = trained.vae.encode(of["target"]).latent_dist.mode() * trained.vae.config.scaling_factor
        again = draws(of)
        noise, timesteps = again.normal("noise", clean.shape[1:]), trained.timesteps(again)
        noisy = trained.scheduler.add_noise(clean, noise, timesteps)
        predicted = trained.unet(noisy, timesteps, states).sample
    torch.testing.assert_close(found, (predicted - noise).square().mean(dim=(1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_the_loss_is_zero_where_the_noise_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    trained, of = module(1), batch(0, 1)
    noise = draws(of).normal("noise", (4, 16, 16))
    monkeypatch.setattr(trained.unet, "forward", lambda *_args, **_named: type("Output", (), {"sample": noise})())
    assert not values_of(trained, of, draws(of))["sdm"].any()


def test_samples_without_a_usable_subject_count_nothing_and_are_counted() -> None:
    long = "red " * 80
    samples = [
        captioned("a <image:0> circle", picture()),
        captioned("a circle"),
        captioned(f"{long}<image:0> circle", picture()),
        captioned("a <image:0> square and <image:0> ring", picture()),
        {key: value for key, value in captioned("a <image:0> circle", picture()).items() if key != "target"},
    ]
    trained, of = module(1), as_batch(samples)
    terms = trained.losses(of, draws(of))
    assert terms["sdm"].counts.tolist() == [1, 0, 0, 1, 0]
    assert terms["sdm"].values.isfinite().all() and len(terms["sdm"].values) == 5
    found = {name: float(value) for name, value in trained.logged().items()}
    expected = {"no_subject": 0.4, "subjects_cut": 0.2, "subjects_word": 0, "subjects_split": 0, "subjects_taken": 0}
    assert found == pytest.approx(expected)


def test_a_batch_without_any_picture_runs_every_module() -> None:
    trained, of = module(1), as_batch([captioned("a circle"), captioned("a star")])
    assert of["attachment_images"].shape[1] == 0
    term = trained.losses(of, draws(of))["sdm"]
    (term.values * term.counts).sum().backward()
    assert term.counts.tolist() == [0, 0]
    assert all(parameter.grad is not None for parameter in trained.pseudo_word.parameters())


def test_what_is_lost_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    trained, of = module(1), as_batch([captioned("red " * 80 + "<image:0> circle", picture())])
    for _ in range(2):
        counts_of(trained, of, draws(of))
    assert [record.message for record in caplog.records if "subject 0" in record.message] == [
        "sample 'one': subject 0: its word 'circle' is token 81 of the text, of which the text encoder reads 75; say "
        "it earlier; it is left out, further ones are counted in train/subjects_*"
    ]


def test_phase_one_learns_one_sample_and_makes_the_picture_matter() -> None:
    trained, of = module(1, drop=0.0, subject_share=1.0), batch(0)
    optimizer, losses = torch.optim.Adam(trained.pseudo_word.parameters(), lr=3e-2), []
    for _ in range(12):
        loss = values_of(trained, of, draws(of))["sdm"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    placed = place_subjects(trained.tokenizer, of, "target_caption", "last")
    with torch.no_grad():
        v = trained.pseudo_word(trained.image_encoder(of["attachment_images"][0])[None])
        states = unified_states(trained.text_encoder, placed.ids, placed.owner, v)
        noisy, timestep = torch.randn(1, 4, 16, 16), torch.tensor([500])
        one, other = (trained.unet(noisy, timestep, each).sample for each in states)
    assert (one - other).abs().max() > 0


def test_phase_two_goes_on_from_phase_one() -> None:
    first, second, of = module(1), module(2), batch(0, 1)
    step(first, of, lr=0.1)
    state = first.state_dict()
    stored = {name: state[name] for name in first.stored_names()}
    init_weights(second, {"state_dict": stored, "step": 3, "backbones": first.describe_backbones()})
    for name, value in first.pseudo_word.state_dict().items():
        assert torch.equal(second.pseudo_word.state_dict()[name], value)
    assert {name for name, p in second.named_parameters() if p.requires_grad} > stored.keys()


def test_frozen_features_are_the_latents_and_a_row_for_each_picture() -> None:
    trained, of = module(1), batch(0, 1)
    assert trained.features.names == {"latents.target", "image_embeddings"}
    assert trained.features.names_seeing_images == {"latents.target"}  # attached pictures are never flipped
    found = trained.features.compute(of, ["image_embeddings"])
    assert [tuple(each["image_embeddings"].shape) for each in found] == [(1, EMBEDDING_WIDTH), (2, EMBEDDING_WIDTH)]
    alone = trained.features.compute(batch(0), ["image_embeddings"])[0]["image_embeddings"]
    torch.testing.assert_close(found[0]["image_embeddings"], alone)


def test_a_tower_without_projection_is_refused_unless_its_class_token_is_wanted(tmp_path: Any) -> None:
    tower = str(build_clip_vision(tmp_path / "tower"))
    with pytest.raises(BackboneError, match=r"1 missing \(visual_projection.weight\)"):
        _with_parts(image_encoder=tower)
    pooled = _with_parts(image_encoder=tower, image_embedding="pooled")
    assert pooled.image_encoder.width == 40 and not pooled.image_encoder.projects
    of = batch(0)
    assert values_of(pooled, of, draws(of))["sdm"].isfinite().all()


def test_an_editing_unet_is_refused(tmp_path: Any) -> None:
    editing = str(build_instruct_pix2pix(tmp_path / "editing"))
    with pytest.raises(BackboneError, match="the UNet has in_channels 8, the config wants 4"):
        _with_parts(unet=editing)


@pytest.mark.parametrize("name", ["drop", "subject_share"])
def test_shares_are_shares(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected a share in \[0, 1\], found 1.5"):
        module(1, **{name: 1.5})


def _with_parts(**settings: Any) -> UMMDiffusionModule:
    diffusion, clip = map(str, folders())
    parts = {"backbone": diffusion, "unet": diffusion, "image_encoder": clip, "phase": 1, "hidden_dim": 8}
    return UMMDiffusionModule(OptimizerConfig(), **parts | settings)
