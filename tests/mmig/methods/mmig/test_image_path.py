"""The differentiable image path: which rows, with which weight, what gets a gradient, and what it costs."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from torch import Tensor

from mmig.backbones.diffusion import load_vae
from mmig.diffusion.latents import decode
from mmig.diffusion.process import NoiseProcess
from mmig.methods.mmig.captioner import Captioner, load_captioner, trainable_parameters
from mmig.methods.mmig.image_path import ImagePathConfig, TimestepDraw, caption_loss, draw_timesteps, predicted_images
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.captioner_support import build_seeing_blip2, saved_bytes
from tests.tiny_fixtures import build_vae

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CAPTIONS = ["a large red circle.", "the ring is gone.", "a star."]
TIMESTEPS = torch.tensor([20, 700, 240])
WEIGHT = torch.tensor([4.0, 0.0, 4.0])


def make(prediction: str) -> NoiseProcess:
    if prediction == "flow":
        return NoiseProcess("flow", shift=3.0)
    return NoiseProcess.from_scheduler(DDIMScheduler(**SD, prediction_type=prediction))


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> AutoencoderKL:
    return load_vae(build_vae(tmp_path_factory.mktemp("vae")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_seeing_blip2(tmp_path_factory.mktemp("blip2"))


@pytest.fixture
def captioner(folder: Path) -> Captioner:
    return load_captioner(folder).set_trainable()


@pytest.fixture
def latents() -> tuple[Tensor, Tensor]:
    """Clean latents and noise, [3,4,16,16] each."""
    both = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    return both[0], both[1]


def run(captioner: Captioner, vae: AutoencoderKL, prediction: Tensor, weight: Tensor = WEIGHT, **options: object):
    config = ImagePathConfig(**options)
    noisy = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    captions = captioner.encode(CAPTIONS)
    return caption_loss(captioner, vae, make("epsilon"), prediction, noisy, TIMESTEPS, captions, weight.clone(), config)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "flow"])
def test_a_true_prediction_gives_the_decoded_latents(
    vae: AutoencoderKL, latents: tuple[Tensor, Tensor], prediction: str
) -> None:
    process, (clean, noise) = make(prediction), latents
    timesteps = torch.tensor([1, 250, 500]) if prediction != "flow" else torch.tensor([10.0, 250.0, 990.0])
    noisy, target = process.add_noise(clean, noise, timesteps), process.target(clean, noise, timesteps)
    found = predicted_images(process, vae, target, noisy, timesteps)
    torch.testing.assert_close(found, decode(vae, clean), atol=1e-4, rtol=0)


def test_uniform_draws_below_the_limit_stand_for_all() -> None:
    draws = Draws(0, range(400))
    found = draw_timesteps(make("epsilon"), draws, ImagePathConfig())
    assert torch.equal(found.timesteps, make("epsilon").sample_timesteps(draws.uniform("timestep")))
    assert torch.equal(found.caption_weight, torch.where(found.timesteps < 250, 4.0, 0.0))
    assert found.in_noise_loss.all()
    assert 60 < (found.caption_weight > 0).sum() < 140


@pytest.mark.parametrize(
    ("prediction", "fraction", "weight"),
    [
        ("epsilon", 0.25, 4.0),
        ("v_prediction", 0.1, 10.0),
        ("flow", 0.25, 10.0),  # 3 l / (1 + 2 l) is below a quarter for l below a tenth
        ("flow", 1.0, 1.0),
    ],
)
def test_the_weight_follows_from_the_limit_and_the_process(prediction: str, fraction: float, weight: float) -> None:
    draws = Draws(1, range(200))
    found = draw_timesteps(make(prediction), draws, ImagePathConfig(fraction)).caption_weight
    assert found.max().item() == pytest.approx(weight, rel=1e-3)
    assert set(found.unique().tolist()) <= {0.0, found.max().item()}


@pytest.mark.parametrize("prediction", ["epsilon", "flow"])
def test_deliberate_rows_are_early_and_leave_the_noise_loss(prediction: str) -> None:
    config = ImagePathConfig(deliberate_share=0.5)
    found = draw_timesteps(make(prediction), Draws(2, range(1000)), config)
    chosen = found.caption_weight > 0
    assert torch.equal(found.caption_weight, torch.where(chosen, 2.0, 0.0))
    assert torch.equal(found.in_noise_loss, ~chosen)
    early, others = found.timesteps[chosen].double(), found.timesteps[~chosen].double()
    assert early.max() < 250
    assert early.min() < 5
    assert others.max() > 950
    if prediction == "epsilon":  # uniform on both sides: mean of n draws from [0, w) within 4 w / sqrt(12 n)
        assert early.mean().item() == pytest.approx(124.5, abs=4 * 250 / (12 * len(early)) ** 0.5)
        assert others.mean().item() == pytest.approx(499.5, abs=4 * 1000 / (12 * len(others)) ** 0.5)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_draw_belongs_to_its_sample(share: float) -> None:
    config, process = ImagePathConfig(deliberate_share=share), make("epsilon")
    together, alone = (draw_timesteps(process, Draws(3, rows), config) for rows in ([7, 8, 9], [9]))
    assert TimestepDraw(*(value[2:] for value in together)) == alone


def test_the_gradient_goes_to_the_chosen_rows_and_the_connector(
    captioner: Captioner, vae: AutoencoderKL, latents: tuple[Tensor, Tensor]
) -> None:
    prediction = latents[1].clone().requires_grad_()
    loss = run(captioner, vae, prediction)
    assert loss.sums[1] == 0
    loss.sums.sum().backward()
    assert (prediction.grad.abs().amax((1, 2, 3)) > 0).tolist() == [True, False, True]
    assert all(value.grad.abs().sum() > 0 for value in (captioner.model.query_tokens, *_projection(captioner)))
    frozen = [
        *vae.parameters(),
        *captioner.model.vision_model.parameters(),
        *captioner.model.language_model.parameters(),
    ]
    assert all(parameter.grad is None for parameter in frozen)


def _projection(captioner: Captioner) -> list[Tensor]:
    return list(captioner.model.language_projection.parameters())


def test_sums_are_weighted_and_counts_are_of_all_captions(
    captioner: Captioner, vae: AutoencoderKL, latents: tuple[Tensor, Tensor]
) -> None:
    plain = run(captioner, vae, latents[1], torch.ones(3))
    found = run(captioner, vae, latents[1], WEIGHT)
    torch.testing.assert_close(found.sums, plain.sums * WEIGHT)
    assert found.counts.tolist() == [len(ids) for ids in captioner.encode(CAPTIONS)]
    noisy = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    images = predicted_images(make("epsilon"), vae, latents[1], noisy, TIMESTEPS, 3)
    torch.testing.assert_close(plain.sums, captioner.loss(images, captioner.encode(CAPTIONS)).sums)


def test_the_captioner_alone_can_be_trained(
    captioner: Captioner, vae: AutoencoderKL, latents: tuple[Tensor, Tensor]
) -> None:
    prediction = latents[1].clone().requires_grad_()
    loss = run(captioner, vae, prediction, blip_grad="captioner")
    loss.sums.sum().backward()
    assert prediction.grad is None
    assert captioner.model.query_tokens.grad.abs().sum() > 0
    torch.testing.assert_close(loss.sums, run(captioner, vae, prediction).sums)


def test_without_rows_every_module_runs_and_nothing_moves(
    captioner: Captioner, vae: AutoencoderKL, latents: tuple[Tensor, Tensor]
) -> None:
    calls: list[str] = []
    hooks = [
        part.register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, part in {"vae": vae.decoder, "captioner": captioner.model}.items()
    ]
    prediction = torch.full_like(latents[1], torch.inf).requires_grad_()
    loss = run(captioner, vae, prediction, torch.zeros(3))
    assert calls == ["vae", "captioner"]
    for hook in hooks:
        hook.remove()
    assert loss.sums.tolist() == [0, 0, 0]
    loss.sums.sum().backward()
    assert (prediction.grad == 0).all()
    assert all((value.grad == 0).all() for value in trainable_parameters(captioner.model).values())


def test_a_row_without_a_caption_is_not_decoded(
    captioner: Captioner, vae: AutoencoderKL, latents: tuple[Tensor, Tensor]
) -> None:
    prediction, noisy = latents[1].clone().requires_grad_(), latents[0]
    loss = caption_loss(
        captioner, vae, make("epsilon"), prediction, noisy, TIMESTEPS, captioner.encode(["", *CAPTIONS[1:]]), WEIGHT
    )
    assert loss.counts[0] == loss.sums[0] == 0
    loss.sums.sum().backward()
    assert (prediction.grad.abs().amax((1, 2, 3)) > 0).tolist() == [False, False, True]


def test_no_more_rows_than_allowed_are_decoded_at_a_time(vae: AutoencoderKL, latents: tuple[Tensor, Tensor]) -> None:
    rows: list[int] = []
    hook = vae.decoder.register_forward_pre_hook(lambda _, inputs: rows.append(len(inputs[0])))
    prediction = latents[1].clone().requires_grad_()
    arguments = (make("epsilon"), vae, prediction, latents[0], TIMESTEPS)
    pairs = predicted_images(*arguments, decode_batch=2)
    assert rows == [2, 1]
    pairs.square().sum().backward()
    assert sorted(rows) == [1, 1, 2, 2]  # computed again in the backward pass
    hook.remove()
    whole = torch.autograd.grad(predicted_images(*arguments, decode_batch=3).square().sum(), prediction)[0]
    assert whole.abs().max() > 0.1
    torch.testing.assert_close(prediction.grad, whole, atol=1e-4, rtol=1e-3)


def test_the_decoder_holds_nothing_between_forward_and_backward(
    vae: AutoencoderKL, latents: tuple[Tensor, Tensor]
) -> None:
    prediction = latents[1].clone().requires_grad_()
    plain = saved_bytes(lambda: decode(vae, prediction))
    path = saved_bytes(lambda: predicted_images(make("epsilon"), vae, prediction, latents[0], TIMESTEPS))
    assert path < 0.05 * plain


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_timestep_fraction": 0.0}, r"max_timestep_fraction must be in \(0, 1\], found 0.0"),
        ({"deliberate_share": 1.5}, "deliberate_share must be in"),
        ({"blip_grad": "none"}, "blip_grad must be 'both' or 'captioner', found 'none'"),
        ({"decode_batch": 0}, "decode_batch must be at least 1"),
    ],
)
def test_settings_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImagePathConfig(**options)


def test_a_limit_below_every_timestep_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves no timestep; raise it"):
        draw_timesteps(make("flow"), Draws(0, [1]), ImagePathConfig(1e-5))


def test_one_caption_and_weight_a_sample(
    captioner: Captioner, vae: AutoencoderKL, latents: tuple[Tensor, Tensor]
) -> None:
    with pytest.raises(ValueError, match="3 predictions, 3 captions, 2 weights"):
        run(captioner, vae, latents[1], WEIGHT[:2])
