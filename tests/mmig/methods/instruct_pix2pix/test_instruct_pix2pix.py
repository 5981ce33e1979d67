"""InstructPix2Pix: its drops, its texts, its two scales."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.backbones.diffusion import load_unet, load_vae
from mmig.checkpoints.checkpoint import init_weights
from mmig.checkpoints.folders import read_parts
from mmig.diffusion.conditioning import Conditioning, condition_drops, denoise
from mmig.diffusion.fresh import UNetSize
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule, TextSource, condition_fields, text_shares
from mmig.methods.instruct_pix2pix.pipeline import EditSampling
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.batches import edit_batch
from tests.mmig.methods.instruct_pix2pix.support import published
from tests.terms import values_of
from tests.tiny_fixtures import build_stable_diffusion

SIZE = UNetSize(block_out_channels=[16, 32], layers_per_block=1, attention_heads=2, norm_num_groups=8, sample_size=16)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return build_stable_diffusion(tmp_path / "stable-diffusion")


def full_batch(size: int = 4) -> Any:
    batch: Any = edit_batch(size)
    batch["target_caption"] = [f"caption {i}" for i in range(size)]
    return batch | {"edit_type": ["add", "visual"] * (size // 2), "metadata": [{}] * size}


def module(folder: Path, unet: str | UNetSize | None = None, **settings: Any) -> InstructPix2PixModule:
    torch.manual_seed(0)
    return InstructPix2PixModule(OptimizerConfig(), {"sdm": 1.0}, str(folder), unet or str(folder), **settings)


def test_each_of_the_three_null_patterns_takes_five_percent() -> None:
    text, image = condition_drops(torch.rand(100_000, generator=torch.Generator().manual_seed(0)), 0.05)
    for pattern in (text & ~image, text & image, image & ~text):
        assert pattern.float().mean().item() == pytest.approx(0.05, abs=0.003)


def test_drops_differ_between_samples_and_repeat_for_the_same_one() -> None:
    uniform = Draws(3, range(200)).uniform("condition_drop")
    assert torch.equal(uniform[50:60], Draws(3, range(50, 60)).uniform("condition_drop"))
    assert not torch.equal(uniform[:100] < 0.1, uniform[100:] < 0.1)


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ("mixed", [(3, [1 / 3, 1 / 3, 1 / 3]), (2, [1 / 2, 1 / 2])]),
        ({"instruction": 1, "response": 1, "target_caption": 1}, [(3, [1 / 3, 1 / 3, 1 / 3]), (2, [1 / 2, 1 / 2])]),
        ({"target_caption": 1, "instruction": 3}, [(2, [1 / 4, 3 / 4]), (2, [1 / 4, 3 / 4])]),
    ],
)
def test_texts_are_drawn_by_their_shares_from_those_a_sample_has(
    shares: TextSource, expected: list[tuple[int, list[float]]]
) -> None:
    batch = full_batch(4)
    size = 3000
    repeated = {name: value * (size // 4) if isinstance(value, list) else value for name, value in batch.items()}
    texts = condition_fields(repeated, shares, Draws(0, range(size)))
    for row, (count, parts) in zip(range(2, 4), expected, strict=True):
        chosen = [text for index, text in enumerate(texts) if index % 4 == row]
        found = sorted(chosen.count(text) / len(chosen) for text in set(chosen))
        assert len(found) == count  # the fourth sample has no response
        assert found == pytest.approx(parts, abs=0.06)


@pytest.mark.parametrize("text", [{}, {"instruction": 0.0}, {"instruction": 1.0, "response": -0.5}, {"caption": 1}])
def test_shares_of_texts_must_be_positive(text: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"expected positive shares of instruction, .*, expressive, found"):
        text_shares(text)  # type: ignore[arg-type]


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["channels_last", "contiguous"])
@pytest.mark.parametrize("image", ["zero", "any"])
def test_the_widened_unet_computes_what_the_old_one_does_to_the_bit(
    folder: Path, image: str, layout: torch.memory_format
) -> None:
    """In float32 on the CPU, both in one memory format: any image while the new weights are zero, a zero image whatever
    they have become.
    """
    widened, narrow = (unet.to(memory_format=layout) for unet in (module(folder).unet, load_unet(folder)))
    noisy, tokens, timesteps = torch.randn(2, 4, 16, 16), torch.randn(2, 77, 32), torch.tensor([5, 800])
    source = torch.randn_like(noisy)
    if image == "zero":
        source.zero_()
        torch.nn.init.normal_(widened.conv_in.weight.data[:, 4:])
    with torch.no_grad():
        found = denoise(widened, noisy, timesteps, Conditioning(tokens, image_latents=source))
        expected = denoise(narrow, noisy, timesteps, Conditioning(tokens))
    assert torch.equal(found, expected)


def test_widening_keeps_bias_and_old_weights_and_adds_zeros(folder: Path) -> None:
    widened, narrow = module(folder).unet, load_unet(folder)
    old, new = narrow.conv_in, widened.conv_in
    assert torch.equal(new.weight[:, :4], old.weight) and not new.weight[:, 4:].any()
    assert torch.equal(new.bias, old.bias) and old.bias.any()
    others = {name: value for name, value in narrow.state_dict().items() if not name.startswith("conv_in.")}
    assert all(torch.equal(widened.state_dict()[name], value) for name, value in others.items())


def test_the_image_condition_is_the_unscaled_mode(folder: Path) -> None:
    method, batch = module(folder, drop=0.0), full_batch()
    clean, condition = method._conditioned_latents(batch, Draws(0, batch["position"]))
    vae = load_vae(folder)
    torch.testing.assert_close(condition.image_latents, vae.encode(batch["source"]).latent_dist.mode())
    mode = module(folder, target_latents="mode")._conditioned_latents(batch, Draws(0, batch["position"]))[0]
    torch.testing.assert_close(mode, vae.encode(batch["target"]).latent_dist.mode() * vae.config.scaling_factor)
    assert not torch.equal(clean, mode)


def test_it_learns_a_batch_and_moves_only_the_unet(folder: Path) -> None:
    method, batch = module(folder, SIZE, drop=0.0), full_batch()
    frozen = {name: value.clone() for name, value in method.vae.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in method.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(10):
        loss = values_of(method, batch, Draws(0, batch["position"]))["sdm"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(value, frozen[name]) for name, value in method.vae.state_dict().items())
    assert {name.split(".")[0] for name in method.stored_names()} == {"unet"}


@pytest.mark.parametrize("trained", [False, True])
def test_the_text_encoder_trains_along_where_it_is_told_to(folder: Path, trained: bool) -> None:
    method, batch = module(folder, drop=0.0, train_text_encoder=trained), full_batch()
    values_of(method, batch, Draws(0, batch["position"]))["sdm"].mean().backward()
    read = method.text_encoder.get_input_embeddings().weight.grad
    assert (read is not None and bool(read.any())) == trained
    assert any(name.startswith("text_encoder.") for name in method.stored_names()) == trained
    assert ("text_encoder" in method.fingerprints()) != trained
    assert ("text.instruction" in method.features.names) != trained
    assert method.features.names >= {"latents.source", "latents.target"}
    assert not any(parameter.requires_grad for parameter in method.vae.parameters())


def test_an_exported_text_encoder_that_trained_starts_a_run(folder: Path, tmp_path: Path) -> None:
    method, exported = module(folder, train_text_encoder=True), tmp_path / "exported"
    torch.nn.init.normal_(method.text_encoder.get_input_embeddings().weight)
    method.export(exported, {})
    fresh = module(exported, train_text_encoder=True)
    torch.nn.init.zeros_(fresh.text_encoder.get_input_embeddings().weight)
    read = read_parts(fresh, exported)
    assert read is not None and init_weights(fresh, read) == []
    given, found = method.state_dict(), fresh.state_dict()
    assert all(torch.equal(found[name], given[name]) for name in method.stored_names())


def test_what_the_edit_changes_counts_more(folder: Path) -> None:
    batch: Any = full_batch()
    batch["target_mask"], batch["reference_mask"] = torch.zeros(2, 4, 1, 64, 64)
    batch["target_mask"][1], batch["target_mask"][2, :, :, :16], batch["reference_mask"][2, :, :, 48:] = 1, 1, 1
    plain, weighted = (module(folder, SIZE, drop=0.0, edit_weight=weight) for weight in (1.0, 4.0))
    draws = Draws(0, batch["position"])
    before, after = (values_of(method, batch, draws)["sdm"] for method in (plain, weighted))
    torch.testing.assert_close(after[[0, 1, 3]], before[[0, 1, 3]])  # no mask, or one of everything
    assert after[2].item() != pytest.approx(before[2].item(), rel=1e-4)


def test_generation_samples_have_no_source_and_the_target_caption(folder: Path) -> None:
    method, batch = module(folder, SIZE, drop=0.0, generation=1.0), full_batch()
    fields, without_image = method._fields(batch, Draws(0, batch["position"]))
    assert set(fields) == {"target_caption"}
    assert without_image.all()


def test_a_sample_without_source_trains_as_if_its_image_were_dropped(folder: Path) -> None:
    method, batch = module(folder, SIZE, drop=0.0), full_batch()
    batch["has_source"] = torch.tensor([True, False, True, True])
    draws = Draws(0, batch["position"])
    before = values_of(method, batch, draws)["sdm"]
    batch["source"][1] = 0.3
    torch.testing.assert_close(values_of(method, batch, draws)["sdm"], before)


def test_sampling_is_the_published_one_unless_configured(folder: Path) -> None:
    plain, other = (module(folder, SIZE, sampling=how).make_pipeline() for how in (None, EditSampling(20, 2.5, 1.2)))
    assert (plain.sampling, other.sampling) == (EditSampling(100, 7.5, 1.5), EditSampling(20, 2.5, 1.2))


def test_the_pipeline_equals_that_of_diffusers(folder: Path) -> None:
    from diffusers import DDIMScheduler, StableDiffusionInstructPix2PixPipeline

    method = module(folder, SIZE, sampling=EditSampling(4, 5.0, 1.5))
    method.scheduler = DDIMScheduler.from_config(method.scheduler.config, timestep_spacing="trailing")
    ours = method.make_pipeline()
    source = full_batch(1)["source"]
    theirs = StableDiffusionInstructPix2PixPipeline(
        vae=method.vae,
        text_encoder=method.text_encoder,
        tokenizer=method.tokenizer,
        unet=method.unet,
        scheduler=method.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    edited = ours.edit(source, ["make it red"], [torch.Generator().manual_seed(7)])
    torch.testing.assert_close(edited / 2 + 0.5, published(theirs, source, "make it red"), atol=1e-4, rtol=1e-4)


def test_an_edit_does_not_depend_on_its_batch(folder: Path) -> None:
    pipeline, batch = module(folder, SIZE, sampling=EditSampling(3)).make_pipeline(), full_batch(2)
    both = pipeline(batch, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    alone = pipeline.edit(batch["source"][1:], batch["instruction"][1:], [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(both.images[1:], alone, atol=1e-4, rtol=1e-4)
    assert pipeline.required_fields == ("source", "instruction")
    assert (pipeline.response_source, both.texts) == ("none", ["", ""])


def test_a_pipeline_on_responses_says_that_they_are_given(folder: Path) -> None:
    pipeline = module(folder, SIZE, text="response").make_pipeline()
    assert (pipeline.response_source, pipeline.required_fields) == ("given", ("source", "response"))
