"""The refinement prior: what it reads, how it is guided, how it is corrupted, and that it learns (A6)."""

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmig.methods.instruct_any2pix.aesthetic import AestheticPredictor, load_aesthetic
from mmig.methods.instruct_any2pix.corruption import choose_task, drops, noised
from mmig.methods.instruct_any2pix.prior import RefinementPrior, load_prior
from mmig.methods.instruct_any2pix.prior_module import PriorModule, PriorSize
from mmig.methods.instruct_any2pix.vectors import AUDIO, IMAGE, TEXT
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.instruct_any2pix.support import PRIOR, WIDTH, as_batch, batch, path, sample_at, unit


@pytest.fixture(scope="module")
def prior() -> RefinementPrior:
    return load_prior(path("prior"))


def kinds(count: int, number: int) -> torch.Tensor:
    return torch.full((count,), number)


def module(**settings) -> PriorModule:
    torch.manual_seed(0)
    return PriorModule(OptimizerConfig(lr=1e-3), path("imagebind"), size=PriorSize(**PRIOR), **settings)


def test_the_published_size_is_gpt2_medium_without_its_words():
    with torch.device("meta"):
        whole = RefinementPrior()
    found = sum(parameter.numel() for parameter in whole.transformer.parameters())
    blocks = 24 * (12 * 1024**2 + 13 * 1024)  # attention 4 w^2 + 4 w, feed-forward 8 w^2 + 5 w, two norms 4 w
    assert found == blocks + 1024 * 1024 + 2 * 1024  # and 1,024 places, and the last norm
    assert round(found / 1e6, 1) == 303.4


def test_restored_vectors_have_length_1_whatever_the_length_of_what_is_given(prior: RefinementPrior):
    vectors, none = unit(3, WIDTH), torch.zeros(3, dtype=torch.bool)
    found = prior(vectors, kinds(3, TEXT), kinds(3, IMAGE), torch.zeros(3), none)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    again = prior(7 * vectors, kinds(3, TEXT), kinds(3, IMAGE), torch.zeros(3), none)
    torch.testing.assert_close(found, again)


def test_guidance_of_1_is_the_prior_itself_and_other_weights_are_on_the_line_from_nothing(prior: RefinementPrior):
    vectors = unit(2, WIDTH)
    source, target, some = kinds(2, TEXT), kinds(2, IMAGE), torch.ones(2, dtype=torch.bool)
    plain = prior(vectors, source, target, torch.full((2,), 6.5), some)
    assert torch.equal(prior.refine(vectors, source, target, 6.5), plain)
    nothing = prior(torch.zeros_like(vectors), source, target, torch.zeros(2), ~some)
    expected = -9 * nothing + 10 * plain
    found = prior.refine(vectors, source, target, 6.5, guidance=10.0)
    torch.testing.assert_close(found, expected / expected.norm(dim=-1, keepdim=True), atol=1e-5, rtol=0)


def test_it_reads_the_score_the_source_type_and_the_target_type(prior: RefinementPrior):
    vectors = unit(1, WIDTH)
    base = prior.refine(vectors, kinds(1, TEXT), kinds(1, IMAGE), 6.5)
    for other in (
        prior.refine(vectors, kinds(1, TEXT), kinds(1, IMAGE), 3.0),
        prior.refine(vectors, kinds(1, AUDIO), kinds(1, IMAGE), 6.5),
        prior.refine(vectors, kinds(1, TEXT), kinds(1, AUDIO), 6.5),
        prior.refine(vectors, kinds(1, TEXT), kinds(1, IMAGE), None),
    ):
        assert (other - base).abs().max() > 1e-4


def test_the_released_layout_never_reads_the_target_type():
    torch.manual_seed(0)
    prior = RefinementPrior(WIDTH, **PRIOR, reads_target_type=False)
    vectors = unit(1, WIDTH)
    one, other = (prior.refine(vectors, kinds(1, TEXT), kinds(1, target), 6.5) for target in (IMAGE, AUDIO))
    assert torch.equal(one, other)


def test_noise_of_sigma_0_05_leaves_what_standard_noise_leaves_of_vectors_of_length_20():
    vectors = unit(4000, 1024)
    noise = torch.randn(4000, 1024, generator=torch.Generator().manual_seed(1))
    found = noised(vectors, noise, 0.05)
    torch.testing.assert_close(found, F.normalize(20 * vectors + noise, dim=-1))
    cosine = (found * vectors).sum(-1).mean().item()
    assert cosine == pytest.approx(20 / math.sqrt(20**2 + 1024), abs=2e-3)  # 0.530


def test_tasks_are_half_noise_half_another_modality_and_restore_what_is_asked():
    count = 20_000
    present = torch.tensor([[True, True, True]]).expand(count, -1)
    uniforms = [torch.rand(count, generator=torch.Generator().manual_seed(number)) for number in range(3)]
    task = choose_task(present, (IMAGE,), 0.5, uniforms)
    assert (task.target == IMAGE).all() and task.valid.all()
    assert task.noisy.float().mean().item() == pytest.approx(0.5, abs=0.012)
    assert (task.source[task.noisy] == IMAGE).all()
    shifted = task.source[~task.noisy]
    assert (shifted == TEXT).float().mean().item() == pytest.approx(0.5, abs=0.016) and (shifted != IMAGE).all()
    both = choose_task(present, (IMAGE, AUDIO), 0.5, uniforms)
    assert (both.target == AUDIO).float().mean().item() == pytest.approx(0.5, abs=0.012)


def test_a_sample_without_a_target_counts_nothing_and_one_with_a_picture_alone_is_noised():
    present = torch.tensor([[False, True, True], [True, False, False], [False, False, True]])
    task = choose_task(present, (IMAGE,), 0.0, [torch.zeros(3)] * 3)
    assert task.valid.tolist() == [False, True, False]
    assert task.noisy[1]
    assert choose_task(present, (IMAGE, AUDIO), 0.0, [torch.zeros(3)] * 3).valid.tolist() == [True, True, False]


def test_scores_are_dropped_alone_and_with_the_vector():
    without_score, without_vector = drops(torch.rand(40_000, generator=torch.Generator().manual_seed(3)), 0.1)
    assert without_score.float().mean().item() == pytest.approx(0.1, abs=0.006)
    assert without_vector.float().mean().item() == pytest.approx(0.05, abs=0.005)
    assert not (without_vector & ~without_score).any()


def test_the_loss_is_the_squared_distance_of_unit_vectors():
    trained = module(noise_share=0.0, drop=0.0)
    chosen = batch(0, 1, 2, 3)
    found = trained.losses(chosen, Draws(0, [0, 1, 2, 3]))["prior"].values
    encoder, rows = trained.encoder.model, []
    for number in range(4):
        draws = Draws(0, [number])
        heard = bool(chosen["has_attachment_audio"][number].any())
        by_sound = heard and draws.uniform("source").item() < 0.5
        if by_sound:
            slot = chosen["has_attachment_audio"][number].int().argmax()
            sound, length = chosen["attachment_audio"][number, slot], chosen["attachment_audio_samples"][number, slot]
            given = encoder.embed_sounds(sound[None], length[None])
        else:
            given = trained.encoder.texts([chosen["target_caption"][number]])
        restored = trained.prior.refine(given, kinds(1, AUDIO if by_sound else TEXT), kinds(1, IMAGE), None)
        wanted = encoder.embed_images(chosen["target"][number : number + 1])
        rows.append(2 - 2 * (restored * wanted).sum())
    torch.testing.assert_close(found, torch.stack(rows), atol=1e-5, rtol=0)


def test_sounds_are_restored_where_the_prior_goes_both_ways():
    heard = next(index for index in range(40) if sample_at(index)["metadata"]["modality"] == "audio")
    sounding = sample_at(heard)
    del sounding["target"]
    sounding.pop("target_mask")
    chosen = as_batch([sounding, sample_at(0)])
    one_way, both_ways = (module(both_ways=way).losses(chosen, Draws(0, [0, 1]))["prior"] for way in (False, True))
    assert one_way.counts.tolist() == [0, 1] and both_ways.counts.tolist() == [1, 1]


def test_it_learns_to_translate_a_few_captions():
    trained = module(noise_share=0.0, drop=0.0)
    chosen = batch(*range(6))
    optimizer = torch.optim.AdamW(trained.prior.parameters(), lr=5e-3)
    values = []
    for _ in range(40):
        loss = trained.losses(chosen, Draws(0, range(6)))["prior"].values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.2 * values[0]


def test_every_weight_of_the_prior_has_a_gradient_and_none_of_the_encoder():
    trained = module(aesthetic=path("aesthetic"), aesthetic_clip=path("clip"), drop=0.0)
    trained.losses(batch(0, 1, 2, 3), Draws(0, [0, 1, 2, 3]))["prior"].values.mean().backward()
    lacking = {name for name, value in trained.prior.named_parameters() if value.grad is None}
    assert lacking == set()
    assert not any(value.requires_grad for value in trained.encoder.parameters())


def test_the_aesthetic_predictor_is_one_affine_map_under_the_published_names():
    predictor = AestheticPredictor(768).eval()
    names = {f"layers.{number}.{kind}" for number in (0, 2, 4, 6, 7) for kind in ("weight", "bias")}
    assert predictor.state_dict().keys() == names
    state = {name: value.double() for name, value in predictor.state_dict().items()}
    matrix, offset = torch.eye(768, dtype=torch.float64), torch.zeros(768, dtype=torch.float64)
    for number in (0, 2, 4, 6, 7):
        weight = state[f"layers.{number}.weight"]
        matrix, offset = weight @ matrix, weight @ offset + state[f"layers.{number}.bias"]
    embeddings = 5 * unit(4, 768)
    expected = (unit(4, 768).double() @ matrix.T + offset).squeeze(1).float()
    torch.testing.assert_close(predictor(embeddings), expected, atol=1e-5, rtol=0)


def test_scores_come_from_the_picture_and_reach_the_prior():
    scorer = load_aesthetic(path("aesthetic"), path("clip"))
    scored = module(aesthetic=path("aesthetic"), aesthetic_clip=path("clip"))
    chosen = batch(0, 1)
    scores, has_score = scored._scores(chosen)
    torch.testing.assert_close(scores, scorer(chosen["target"]))
    assert has_score.all() and scores[0] != scores[1]


def test_a_predictor_without_its_clip_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^aesthetic, aesthetic_clip: expected both or none"):
        module(aesthetic=path("aesthetic"))


def test_it_is_exported_and_opened_again(tmp_path: Path):
    trained = module()
    trained.export(tmp_path, {})
    again = load_prior(str(tmp_path))
    vectors = unit(2, WIDTH)
    one, other = (each.refine(vectors, kinds(2, TEXT), kinds(2, IMAGE), 5.0) for each in (trained.prior.eval(), again))
    torch.testing.assert_close(one, other)
