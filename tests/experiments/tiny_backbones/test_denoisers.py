"""What helps a denoiser to learn: what it is asked, whom it teaches, and that the noise loss stays as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from experiments.tiny_backbones.denoisers import (
    ATTENTION,
    READING,
    Drawing,
    Editing,
    attention_outside,
    outputs_of,
)
from experiments.tiny_backbones.export import export_run
from mmig.diffusion.concepts import locate_concepts
from mmig.diffusion.fresh import UNetSize
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.terms import counts_of, values_of
from tests.tiny_fixtures import build_stable_diffusion

SIZE = UNetSize([16, 32], 1, [1, 2], 8, 16, [True, False])
EVENLY = {"instruction": 1, "response": 1, "target_caption": 1}
CASES = [(Drawing, TextToImageModule), (Editing, InstructPix2PixModule)]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoisers") / "stable-diffusion"
    build_stable_diffusion(folder)
    return folder


@pytest.fixture
def world() -> Batch:
    """Eight samples whose scenes are known."""
    return collate([make_sample(0, "train", index, level="plain") for index in range(8)])


def build(kind: Any, pipeline: Path, terms: tuple[str, ...] = ("sdm", READING), **options: Any) -> Any:
    torch.manual_seed(0)
    return kind(OptimizerConfig(), dict.fromkeys(terms, 1.0), str(pipeline), SIZE, **options)


@pytest.mark.parametrize(("kind", "plain"), CASES)
def test_the_noise_loss_is_that_of_the_method(kind: Any, plain: Any, pipeline: Path, world: Batch) -> None:
    draws, module, other = Draws(0, world["position"]), build(kind, pipeline), build(plain, pipeline, ("sdm",))
    other.unet.load_state_dict(module.unet.state_dict())
    torch.testing.assert_close(values_of(module, world, draws)["sdm"], values_of(other, world, draws)["sdm"])


@pytest.mark.parametrize("kind", [Drawing, Editing])
def test_one_pass_gives_both_and_the_reader_teaches_all_up_to_the_middle(
    kind: Any, pipeline: Path, world: Batch
) -> None:
    module = build(kind, pipeline)
    with outputs_of(module.unet) as passes:
        values = values_of(module, world, Draws(0, world["position"]))
    assert len(passes) == 1 and (values[READING] > 0).any()
    values[READING].sum().backward()
    taught = {name.split(".")[0] for name, p in module.unet.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"conv_in", "down_blocks", "mid_block"} <= taught and not {"up_blocks", "conv_out"} & taught


def test_a_drawing_is_asked_for_the_scene_of_its_side_where_it_has_a_caption(pipeline: Path, world: Batch) -> None:
    draws = Draws(0, world["position"])
    assert counts_of(build(Drawing, pipeline, caption_drop=0.0), world, draws)[READING].all()
    assert not counts_of(build(Drawing, pipeline, caption_drop=1.0), world, draws)[READING].any()
    module = build(Drawing, pipeline, caption_drop=0.0)
    before = values_of(module, world, draws)[READING]
    for known in world["metadata"]:
        known["target_scene"] = None
    targets = draws.bernoulli("side", 0.5)
    counts, after = counts_of(module, world, draws)[READING], values_of(module, world, draws)[READING]
    assert counts.tolist() == (~targets).tolist() and targets.any() and not targets.all()
    torch.testing.assert_close(after[~targets], before[~targets])


def test_an_edit_is_asked_for_what_can_be_told(pipeline: Path, world: Batch) -> None:
    draws = Draws(0, world["position"])
    assert counts_of(build(Editing, pipeline, drop=0.0), world, draws)[READING].all()
    for text, drop in (("instruction", 0.3), ("response", 0.3)):
        module = build(Editing, pipeline, text=text, drop=drop)
        fields, blind = module._fields(world, draws)
        told = [
            field != "" and not (text == "instruction" and hidden) for field, hidden in zip(fields, blind, strict=True)
        ]
        assert counts_of(module, world, draws)[READING].tolist() == told and 0 < sum(told) < 8


def test_attention_outside_the_mask_is_counted_by_hand(pipeline: Path) -> None:
    tokenizer = build(Editing, pipeline).tokenizer
    texts = ["a red circle on the left", "a red circle on the left"]
    tokens = locate_concepts(tokenizer, texts, [["red circle", "left"], []])
    attention = torch.rand(2, tokens.content.shape[1], 4, 4)
    masks = torch.zeros(2, 2, 4, 4)
    masks[0, 0, :2], masks[0, 1, :, 3] = 1, 1
    words = [[int(place) for place in found if place >= 0] for found in tokens.positions[0]]
    expected = 0.0
    for found, mask in zip(words, masks[0], strict=True):
        seen = sum(attention[0, place] for place in found)
        expected += float(1 - (seen * mask).sum() / seen.sum()) ** 2 / 2
    losses = attention_outside(attention, tokens, masks)
    assert losses.tolist() == pytest.approx([expected, 0.0], abs=1e-6)


def test_attention_is_asked_of_responses_and_teaches_what_makes_it(pipeline: Path, world: Batch) -> None:
    draws = Draws(0, world["position"])
    module = build(Editing, pipeline, ("sdm", READING, ATTENTION), text=EVENLY, drop=0.3)
    fields, _ = module._fields(world, draws)
    counts, values = counts_of(module, world, draws)[ATTENTION], values_of(module, world, draws)[ATTENTION]
    told = [field == "response" for field in fields]
    assert counts.tolist() == told and 0 < sum(told) < 8
    assert all((value > 0) == counted for value, counted in zip(values.tolist(), told, strict=True))
    masks = world["concept_masks"]
    more = {**world, "concept_masks": torch.cat([masks, torch.ones_like(masks[:, :1])], dim=1)}
    assert torch.equal(values_of(module, more, draws)[ATTENTION], values)  # as where the richest sample is dropped
    values.sum().backward()
    taught = {name for name, p in module.unet.named_parameters() if p.grad is not None and p.grad.any()}
    assert any("attn2.to_k" in name for name in taught) and not any("conv_out" in name for name in taught)


def test_helpers_end_at_their_step(pipeline: Path, world: Batch) -> None:
    draws = Draws(0, world["position"])
    module = build(Editing, pipeline, ("sdm", READING, ATTENTION), text="response", drop=0.0, helper_steps=3)
    for step, asked in ((2, True), (3, False)):
        module.step = step
        counts = counts_of(module, world, draws)
        assert [bool(counts[name].any()) for name in (READING, ATTENTION)] == [asked, asked] and counts["sdm"].all()
        assert bool(values_of(module, world, draws)[READING].any()) == asked


def test_the_reader_is_not_exported(pipeline: Path, tmp_path: Path) -> None:
    build_stable_diffusion(tmp_path / "stable-diffusion")
    export_run("unet", build(Editing, pipeline), tmp_path)
    assert (tmp_path / "instruct-pix2pix" / "unet").is_dir()
    files = [*tmp_path.rglob("*.safetensors")]
    assert files and not any(b"reader" in file.read_bytes() for file in files)
