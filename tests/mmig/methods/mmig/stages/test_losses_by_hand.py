"""Each denoising term of a step against the same forwards of the published libraries, done by hand (eq 14, 17-20)."""

import itertools

import pytest
import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.diffusion.attention import capture_attention
from mmig.diffusion.concepts import locate_concepts
from mmig.methods.mmig.attention_losses import concept_maps
from mmig.methods.mmig.image_path import ImagePathConfig
from mmig.methods.mmig.objective import TERMS, ObjectiveConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage5
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.stages.support import (
    ByHand,
    Call,
    bare_batch,
    counted,
    mmig_values,
    positions_at,
    recorded,
    seeing_backbones,
    settled_stage,
    world_batch,
)
from tests.terms import counts_of

POSITIONS = positions_at(lambda part: 0.3 < part < 0.9, 2)
DRAWS = Draws(0, POSITIONS)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> MMIGStage:
    folders = seeing_backbones(tmp_path_factory.mktemp("tiny"))
    objective = ObjectiveConfig(image_path=ImagePathConfig(decode_batch=8))
    return settled_stage(folders, Stage5, objective=objective)


def box(top: int, left: int, height: int, width: int) -> Tensor:
    """A mask of a rectangle of whole latent cells, [1,64,64]."""
    mask = torch.zeros(1, 64, 64)
    mask[:, 4 * top : 4 * (top + height), 4 * left : 4 * (left + width)] = 1
    return mask


@pytest.fixture(scope="module")
def batch() -> Batch:
    """The object's places of target and reference differ in the first sample; the second has no reference."""
    batch = world_batch(POSITIONS)
    batch["target_mask"] = torch.stack([box(2, 3, 5, 4), box(0, 0, 9, 7)])
    batch["reference_mask"] = torch.stack([box(4, 5, 6, 8), torch.zeros(1, 64, 64)])
    batch["has_reference_mask"] = torch.tensor([True, False])
    return batch


@pytest.fixture(scope="module")
def step(stage: MMIGStage, batch: Batch) -> tuple[dict[str, Tensor], list[Call], list[Call]]:
    """Losses of all terms, and the forwards of the denoiser and of the LLM."""
    with recorded(stage.mmig.unet) as unet, recorded(stage.mmig.mllm.llm.get_decoder()) as llm:
        return mmig_values(stage.mmig, batch, DRAWS, TERMS), unet, llm


@pytest.fixture(scope="module")
def hand(stage: MMIGStage, batch: Batch) -> ByHand:
    return ByHand(stage.mmig, batch, DRAWS)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


Step = tuple[dict[str, Tensor], list[Call], list[Call]]


def test_one_forward_of_the_llm_and_three_of_the_denoiser(step: Step) -> None:
    _, unet, llm = step
    assert len(llm) == 1
    assert [call.output.sample.requires_grad for call in unet] == [True, False, True]  # A, C, B


def test_the_noise_loss_is_that_of_forward_a(step: Step, hand: ByHand) -> None:
    """Eq 14: noise added by diffusers, CLIP's states of the response, one forward with e6, a mean of squares."""
    losses, (first, *_), _ = step
    close(first.inputs[0], hand.inputs(hand.timesteps))
    assert torch.equal(first.named["timestep"], hand.timesteps)
    close(first.named["encoder_hidden_states"], hand.tokens)
    assert first.named["encoder_attention_mask"] is None
    prediction, alignment = hand.predict(hand.tokens, hand.timesteps)
    close(losses["sdm"], (prediction - hand.noise).square().mean(dim=(1, 2, 3)))
    close(losses["mmsm"], alignment)  # of forward A alone


def test_foreground_and_background_are_of_one_forward_under_the_mixture(step: Step, hand: ByHand, batch: Batch) -> None:
    """Eq 16-18: 0.7 e_a + 0.3 e_b; M_t inside, 1 - M_r outside, and M_t where there is no M_r."""
    losses, (_, _, layered), _ = step
    mixed = 0.7 * hand.encode(batch["object_phrase"]) + 0.3 * hand.encode(batch["background_phrase"])
    close(layered.named["encoder_hidden_states"], mixed)
    close(layered.inputs[0], hand.inputs(hand.timesteps))
    squares = (hand.predict(mixed, hand.timesteps)[0] - hand.noise).square()
    inside = batch["target_mask"][:, :, ::4, ::4]
    reference = torch.stack([batch["reference_mask"][0], batch["target_mask"][1]])[:, :, ::4, ::4]
    close(losses["fg"], (inside * squares).mean(dim=(1, 2, 3)))
    close(losses["bg"], ((1 - reference) * squares).mean(dim=(1, 2, 3)))
    assert (losses["fg"] > 0).all() and (losses["bg"] > 0).all()


def overlap(a: Tensor, b: Tensor) -> Tensor:
    return torch.minimum(a, b).sum() / (a + b).sum()


def test_attention_losses_are_those_of_two_forwards_a_step_apart(
    stage: MMIGStage, step: Step, hand: ByHand, batch: Batch
) -> None:
    """Eq 19 and 20: C is 20 timesteps noisier, on the same latents, noise and text."""
    losses, (_, before, _), _ = step
    assert torch.equal(before.named["timestep"], hand.timesteps + 20)
    close(before.inputs[0], hand.inputs(hand.timesteps + 20))
    close(before.named["encoder_hidden_states"], hand.tokens)
    located = locate_concepts(stage.mmig.tokenizer, batch["response"], batch["concepts"])
    found = []
    for timesteps in (hand.timesteps, hand.timesteps + 20):
        with capture_attention(stage.mmig.unet, (16, 16)) as capture:
            hand.predict(hand.tokens, timesteps)
        found.append(concept_maps(capture.average(), located).maps)
    for row, concepts in enumerate(batch["concepts"]):
        now, earlier = found[0][row, : len(concepts)], found[1][row, : len(concepts)]
        assert len(concepts) >= 2 and located.valid[row, : len(concepts)].all()
        pairs = [overlap(a, b) for a, b in itertools.combinations(now, 2)]
        regions = [(past >= 0.5 * past.max()).float() for past in earlier]
        close(losses["as"][row], sum(pairs))
        close(losses["ar"][row], sum(1 - overlap(a, b) for a, b in zip(now, regions, strict=True)))
    counts = counts_of(stage, batch, DRAWS)
    assert counts["as"].tolist() == counts["ar"].tolist() == [1, 1]


def test_one_concept_counts_in_retention_alone(stage: MMIGStage, batch: Batch) -> None:
    single = batch | {"concepts": [concepts[:1] for concepts in batch["concepts"]]}
    counts = counts_of(stage, single, DRAWS)
    assert counts["as"].tolist() == [0, 0]
    assert counts["ar"].tolist() == [1, 1]
    values = mmig_values(stage.mmig, single, DRAWS, ("as", "ar"))
    assert values["as"].tolist() == [0, 0] and (values["ar"] >= 0.5).all()


@pytest.mark.parametrize(("term", "mask", "value"), [("fg", "target_mask", 0.0), ("bg", "reference_mask", 1.0)])
def test_a_mask_of_nothing_leaves_no_loss_and_a_gradient_of_zero(
    stage: MMIGStage, batch: Batch, term: str, mask: str, value: float
) -> None:
    """Nothing inside an all-zero M_t, nothing outside an all-one M_r; what trains stays connected, without NaN."""
    flat = batch | {mask: torch.full_like(batch[mask], value), "has_reference_mask": torch.tensor([True, True])}
    values = mmig_values(stage.mmig, flat, DRAWS, ("fg", "bg"))
    assert values[term].tolist() == [0.0, 0.0]
    trained = [*stage.mmig.unet.parameters(), *stage.mmig.mmsm.parameters()]
    alone = torch.autograd.grad(values[term].sum(), trained, retain_graph=True)  # raises where one is not reached
    assert not any(gradient.any() for gradient in alone)
    both = torch.autograd.grad((values["fg"] + values["bg"]).sum(), trained)
    assert all(gradient.isfinite().all() for gradient in both) and any(gradient.any() for gradient in both)


def test_every_module_is_called_as_often_without_optional_fields(stage: MMIGStage, batch: Batch) -> None:
    with counted(stage.mmig) as whole, torch.no_grad():
        mmig_values(stage.mmig, batch, DRAWS, TERMS)
    with counted(stage.mmig) as bare, torch.no_grad():
        mmig_values(stage.mmig, bare_batch((POSITIONS[0], POSITIONS[1])), DRAWS, TERMS)
    assert whole == bare
    assert whole["unet"] == 3 and whole["mllm.llm.model"] == 1
    assert {name.split(".")[0] for name in whole} >= {"unet", "vae", "text_encoder", "mmsm", "mllm", "captioner"}


def test_near_the_noisiest_timestep_nothing_counts_in_retention(stage: MMIGStage) -> None:
    """t' + gap must exist (reference, 4.5): from 980 on the earlier step would be nearer, or the same."""
    edge = positions_at(lambda part: 0.979 <= part < 0.9799, 1) + positions_at(lambda part: part >= 0.98, 2)
    batch, draws = world_batch(edge), Draws(0, edge)
    counts = counts_of(stage, batch, draws)
    assert counts["ar"].tolist() == [1, 0, 0]
    assert counts["as"].tolist() == counts["sdm"].tolist() == [1, 1, 1]
    mmig_values(stage.mmig, batch, draws, ("ar",))
