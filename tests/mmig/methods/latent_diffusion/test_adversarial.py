"""The autoencoder's losses are the published sums up to one factor; its discriminator begins when it is told to."""

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from mmig.methods.latent_diffusion.adversarial import AdversarialAutoencoder
from mmig.methods.latent_diffusion.autoencoder import drawn_images
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.latent_diffusion.support import WEIGHTS, adversarial, captioned
from tests.saved_run import save_run
from tests.terms import values_of
from tests.two_optimisers import Watch

VALUES = 3 * 64 * 64
"""Of an image."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


def fit(module: AdversarialAutoencoder, steps: int, size: int = 2) -> Watch:
    batches = [captioned(size, seed) | {"position": torch.arange(size) + size * seed} for seed in range(steps)]
    watch = Watch()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        callbacks=[watch],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda batch: batch))  # type: ignore[arg-type]
    return watch


def with_a_strong_discriminator(module: AdversarialAutoencoder) -> AdversarialAutoencoder:
    """Whose gradient is not so small that the adaptive weight meets its limit."""
    with torch.no_grad():
        module.discriminator[-1].weight.mul_(100)
    return module


def made_by_hand(module: AdversarialAutoencoder, batch: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Images, reconstructions and posterior of the batch's draws."""
    draws = Draws(module.seed, batch["position"])
    images = drawn_images(batch, draws)
    posterior = module.vae.encode(images).latent_dist
    noise = draws.normal("posterior", posterior.mean.shape[1:])
    return images, module.vae.decode(posterior.mean + posterior.std * noise).sample, posterior


def test_the_total_is_the_published_sum_divided_by_the_values_of_an_image(place: Path) -> None:
    """Rombach et al.'s: error and LPIPS of every value, summed and divided by the batch; the log variance stays 0."""
    module, batch = adversarial(place), captioned(3)
    images, made, posterior = made_by_hand(module, batch)
    lpips = module.perceptual(made, images)
    per_value = (made - images).abs() + lpips.view(-1, 1, 1, 1)
    divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).sum()
    published = (per_value.sum() + 1e-6 * divergence) / 3
    losses = values_of(module, batch, Draws(module.seed, batch["position"]))
    ours = sum(WEIGHTS[name] * losses[name].mean() for name in ("reconstruction", "lpips", "kl"))
    torch.testing.assert_close(VALUES * ours, published, rtol=1e-5, atol=0)
    assert float(lpips.detach().mean()) > 0


def test_a_standard_normal_posterior_has_no_divergence(place: Path) -> None:
    module, batch = adversarial(place), captioned(2)
    with torch.no_grad():
        module.vae.quant_conv.weight.zero_()
        module.vae.quant_conv.bias.zero_()
    assert values_of(module, batch, Draws(0, batch["position"]))["kl"].tolist() == [0.0, 0.0]


def test_the_adversarial_terms_are_the_discriminators_answers(place: Path) -> None:
    module, batch = adversarial(place), captioned(2)
    images, made, _ = made_by_hand(module, batch)
    losses = values_of(module, batch, Draws(module.seed, batch["position"]))
    real, fake = module.discriminator(images), module.discriminator(made)
    torch.testing.assert_close(losses["gan"], -fake.mean(dim=(1, 2, 3)))
    hinge = ((1 - real).clamp(min=0) + (1 + fake).clamp(min=0)).mean(dim=(1, 2, 3)) / 2
    torch.testing.assert_close(losses["hinge"], hinge)


def test_the_adaptive_weight_is_a_ratio_of_gradients(place: Path) -> None:
    """Esser et al. 2021, eq 7, with half of it as published, by the kernel of the last layer."""
    module, batch = with_a_strong_discriminator(adversarial(place)), captioned(2)
    losses = values_of(module, batch, Draws(module.seed, batch["position"]))
    last = module.vae.decoder.conv_out.weight
    rest = sum(WEIGHTS[name] * losses[name].mean() for name in ("reconstruction", "lpips"))
    ours = torch.autograd.grad(rest, last, retain_graph=True)[0].norm()
    against = torch.autograd.grad(losses["gan"].mean(), last)[0].norm()
    expected = 0.5 * float(ours / (against + 1e-4))
    assert expected < 0.5 * 1e4 / VALUES  # else the limit would be measured
    logged = fit(with_a_strong_discriminator(adversarial(place)), 1).logged[0]
    assert logged["train/weight/gan"] == pytest.approx(expected, rel=1e-3)


def test_the_limit_of_the_weight_is_the_published_one(place: Path) -> None:
    """10,000, where errors are summed over an image."""
    module = adversarial(place)
    rule = module.turns()[0].computed_weights["gan"]
    assert float(rule.of(0.5, torch.ones(4), torch.zeros(4))) == pytest.approx(0.5 * 1e4 / VALUES)


def test_the_discriminator_rests_until_its_first_step_and_moves_from_it_on(place: Path) -> None:
    watch = fit(adversarial(place, discriminator_start=2), 4)
    for step in range(4):
        before, after = watch.weights[step : step + 2]
        moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
        assert moved == ({"vae"} if step < 2 else {"vae", "discriminator"})
        assert ("train/gan" in watch.logged[step]) == (step >= 2)


def test_without_the_adversarial_terms_there_is_one_turn_and_no_discriminator(place: Path) -> None:
    module = adversarial(place, {"reconstruction": 1.0, "lpips": 1.0, "kl": 1e-6})
    assert [turn.name for turn in module.turns()] == ["autoencoder"] and module.discriminator is None
    assert fit(module, 1).logged[0]["train/loss"] > 0


def test_lpips_stays_out_of_checkpoints_and_the_discriminator_in_them(place: Path) -> None:
    module = adversarial(place)
    assert {name.partition(".")[0] for name in module.stored_names()} == {"vae", "discriminator"}
    assert module.fingerprints().keys() == {"perceptual"}
    assert module.not_averaged == ("discriminator",)


def test_an_earlier_run_without_a_discriminator_is_a_start(place: Path, tmp_path: Path) -> None:
    from mmig.checkpoints.checkpoint import init_weights, read_start

    arguments = {"optimizer": {"lr": 1e-3}, "loss_weights": {"reconstruction": 1.0}, "sample_size": 64}
    sizes = {"block_out_channels": [8, 16, 16], "layers_per_block": 1, "norm_num_groups": 8}
    run = save_run(tmp_path / "plain", "mmig.methods.latent_diffusion.autoencoder.AutoencoderModule", arguments | sizes)
    module = adversarial(place)
    before = module.vae.decoder.conv_out.weight.clone()
    init_weights(module, read_start(module, run))
    assert not torch.equal(module.vae.decoder.conv_out.weight, before)


def test_terms_that_lack_what_they_go_with_are_one_line(place: Path) -> None:
    for weights, perceptual, said in (
        ({"reconstruction": 1.0, "gan": 0.5}, None, "expected both of gan and hinge or neither, found gan alone"),
        ({"reconstruction": 1.0, "lpips": 1.0}, None, "perceptual: expected a folder or hub id of LPIPS' backbone"),
        ({"reconstruction": 1.0, "perceptual": 1.0}, None, "no loss 'perceptual'; expected some of reconstruction"),
    ):
        with pytest.raises(ValueError, match=said) as caught:
            AdversarialAutoencoder(OptimizerConfig(), weights, perceptual, block_out_channels=(8,), norm_num_groups=8)
        assert "\n" not in str(caught.value)


def test_its_pipeline_gives_the_source_back_as_the_autoencoder_draws_it(place: Path) -> None:
    module, batch = adversarial(place).eval(), captioned(2)
    editor = module.make_pipeline()
    expected = module.vae.decode(module.vae.encode(batch["source"]).latent_dist.mode()).sample.clamp(-1, 1)
    assert editor.required_fields == ("source",)
    assert torch.equal(editor(batch, torch.Generator()).images, expected)


def test_the_published_sizes_are_those_of_kl_f8(place: Path) -> None:
    with torch.device("meta"):
        module = AdversarialAutoencoder(OptimizerConfig(), {"reconstruction": 1.0, "gan": 0.5, "hinge": 1.0})
        latents = module.vae.encode(torch.zeros(1, 3, 256, 256)).latent_dist.mean
    assert sum(parameter.numel() for parameter in module.vae.parameters()) == 83_653_863
    assert latents.shape == (1, 4, 32, 32)
