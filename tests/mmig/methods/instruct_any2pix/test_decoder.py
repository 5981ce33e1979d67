"""The decoder: how one vector conditions a denoiser, in both variants, and that decoders can be swapped (A7)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from mmig.backbones.parts import BackboneError
from mmig.diffusion.conditioning import denoise
from mmig.diffusion.sdxl import encode_by_two, time_ids
from mmig.methods.instruct_any2pix.any_to_image import AnySampling, AnyToImageEditor, open_editor
from mmig.methods.instruct_any2pix.decoder import Decoder, load_decoder
from mmig.methods.instruct_any2pix.decoder_module import DecoderModule, IPAdapterSize, ProjectorSize
from mmig.methods.instruct_any2pix.prior import load_prior
from mmig.methods.instruct_any2pix.projectors import EmbeddingProjector, cross_attentions
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.instruct_any2pix.support import WIDTH, as_batch, batch, path, sample_at, unit
from tests.tiny_sdxl import CONTEXT, POOLED

SIZE = (64, 64)


def module(base: str = "sdxl", **settings: Any) -> DecoderModule:
    torch.manual_seed(0)
    names = ("backbone", "unet")
    own = {"projector": ProjectorSize(hidden_dim=24), **settings}
    return DecoderModule(
        OptimizerConfig(lr=1e-3), **dict.fromkeys(names, path(base)), imagebind=path("imagebind"), **own
    )


def adapter(base: str = "sdxl", **settings: Any) -> DecoderModule:
    size = IPAdapterSize(num_tokens=4, text="a red circle", null_text="blue")
    texts = {"text": path(base), **({"second_text": path(base)} if base == "sdxl" else {})}
    return module(base, variant="ip_adapter", train_unet="none", ip_adapter=size, **texts, **settings)


def decoder_of(found: DecoderModule) -> Decoder:
    return found.make_pipeline().decoder


@torch.no_grad()
def test_sdxl_is_told_the_vector_as_token_and_pooled_vector_and_the_size():
    decoder = decoder_of(module())
    vectors, noisy = unit(2, WIDTH), torch.randn(2, 4, 16, 16)
    found = denoise(decoder.unet, noisy, torch.tensor(7), decoder.branches(vectors, SIZE)["full"])
    projector: Any = decoder.projector
    mlp = projector.state_dict()

    def by_hand(name: str) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(20 * vectors @ mlp[f"{name}.0.weight"].T + mlp[f"{name}.0.bias"])
        return hidden @ mlp[f"{name}.2.weight"].T + mlp[f"{name}.2.bias"]

    told = {"text_embeds": by_hand("pooled"), "time_ids": torch.tensor([[64.0, 64, 0, 0, 64, 64]] * 2)}
    context = by_hand("context")[:, None]
    assert context.shape == (2, 1, CONTEXT) and told["text_embeds"].shape == (2, POOLED)
    expected = decoder.unet(noisy, 7, encoder_hidden_states=context, added_cond_kwargs=told).sample
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_branch_without_condition_is_zeros():
    null = decoder_of(module()).branches(unit(2, WIDTH), SIZE)["null"]
    assert null.tokens.shape == (2, 1, CONTEXT) and not null.tokens.any() and not null.pooled.any()


@torch.no_grad()
def test_attention_to_one_token_adds_the_same_everywhere():
    decoder = decoder_of(module("stable-diffusion"))
    outputs: dict[str, torch.Tensor] = {}
    for name, layer in cross_attentions(decoder.unet).items():
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: outputs.update({name: output}))
    condition = decoder.branches(unit(2, WIDTH), SIZE)["full"]
    denoise(decoder.unet, torch.randn(2, 4, 16, 16), torch.tensor(300), condition)
    assert len(outputs) == 7
    for output in outputs.values():
        torch.testing.assert_close(output, output[:, :1].expand_as(output), atol=1e-6, rtol=1e-5)
        assert (output[0, 0] - output[1, 0]).abs().max() > 1e-6


def test_the_released_pooled_vector_is_the_same_for_all():
    projector = EmbeddingProjector(WIDTH, CONTEXT, POOLED, 24, constant_dim=7)
    found = projector(unit(2, WIDTH))
    assert projector.pooled[0].in_features == 7
    assert torch.equal(found.pooled[0], found.pooled[1]) and not torch.equal(found.tokens[0], found.tokens[1])


def test_the_published_projector_has_21_million_parameters():
    with torch.device("meta"):
        found = sum(parameter.numel() for parameter in EmbeddingProjector().parameters())
    assert found == 2 * (1024 + 1) * 4096 + (4096 + 1) * (2048 + 1280)
    assert round(found / 1e6, 1) == 22.0


@torch.no_grad()
def test_the_loss_is_the_error_of_the_noise_under_the_pictures_own_vector():
    trained, chosen = module(drop=0.0), batch(0, 1)
    draws = Draws(0, [0, 1])
    found = trained.losses(chosen, draws)["sdm"].values
    posterior = trained.vae.encode(chosen["target"]).latent_dist
    clean = 0.5 * (posterior.mean + posterior.std * draws.normal("posterior", posterior.mean.shape[1:]))
    noise, timesteps = draws.normal("noise", clean.shape[1:]), (1000 * draws.uniform("timestep")).long()
    noisy = trained.scheduler.__class__.from_config(trained.scheduler.config)
    kept = noisy.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    vectors = trained.encoder.model.embed_images(chosen["target"])
    given = trained.projector(vectors)
    told = {"text_embeds": given.pooled, "time_ids": time_ids(SIZE, 2)}
    predicted = trained.unet(
        kept.sqrt() * clean + (1 - kept).sqrt() * noise,
        timesteps,
        encoder_hidden_states=given.tokens,
        added_cond_kwargs=told,
    ).sample
    torch.testing.assert_close(found, (predicted - noise).square().mean((1, 2, 3)), atol=1e-5, rtol=1e-4)


def test_a_tenth_of_the_samples_is_drawn_without_condition():
    trained = module(drop=0.1)
    dropped = Draws(0, range(4000)).bernoulli("drop", 0.1)
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.015)
    given = trained._with_drops(trained.projector(unit(2, WIDTH)), torch.tensor([True, False]))
    assert not given.tokens[0].any() and not given.pooled[0].any() and given.tokens[1].any()


@pytest.mark.parametrize(("setting", "some"), [("full", True), ("cross_attention", True), ("none", False)])
def test_what_is_said_trains_and_nothing_else(setting: str, some: bool):
    trained = module(train_unet=setting)
    trained.losses(batch(0, 1), Draws(0, [0, 1]))["sdm"].values.mean().backward()
    moved = {name for name, value in trained.unet.named_parameters() if value.grad is not None}
    assert bool(moved) == some
    if setting == "cross_attention":
        assert moved and all(".attn2." in name for name in moved)
    assert all(value.grad is not None for value in trained.projector.parameters())


@torch.no_grad()
def test_the_ip_adapter_is_that_of_diffusers():
    decoder = decoder_of(adapter())
    projector: Any = decoder.projector
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for parameter in projector.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    plain = UNet2DConditionModel.from_pretrained(path("sdxl"), subfolder="unet")
    names = {"image_embeds.weight": "proj.weight", "image_embeds.bias": "proj.bias"}
    own = {names.get(name, name): value for name, value in projector.image_proj.state_dict().items()}
    order = [name for name in plain.attn_processors if name.endswith("attn2.processor")]
    ours = list(cross_attentions(plain))
    numbers = {f"{name}.processor": place for place, name in enumerate(ours)}
    layers = {
        f"{2 * place + 1}.to_{kind}_ip.weight": getattr(projector.layers[numbers[name]], f"to_{kind}_ip")[0].weight
        for place, name in enumerate(order)
        for kind in "kv"
    }
    plain._load_ip_adapter_weights([{"image_proj": own, "ip_adapter": layers}])
    vectors, noisy = unit(2, WIDTH), torch.randn(2, 4, 16, 16)
    condition = decoder.branches(vectors, SIZE)["full"]
    told = {
        "text_embeds": condition.pooled,
        "time_ids": condition.extra["time_ids"],
        "image_embeds": [20 * vectors[:, None]],
    }
    expected = plain(noisy, 40, encoder_hidden_states=condition.tokens[:, :-4], added_cond_kwargs=told).sample
    found = denoise(decoder.unet, noisy, torch.tensor(40), condition)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_ip_adapters_text_is_that_of_both_text_encoders():
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    projector: Any = adapter().projector
    first = CLIPTextModel.from_pretrained(path("sdxl"), subfolder="text_encoder")
    second = CLIPTextModelWithProjection.from_pretrained(path("sdxl"), subfolder="text_encoder_2")
    tokenizer = CLIPTokenizer.from_pretrained(path("sdxl"), subfolder="tokenizer")
    ids = tokenizer(["a red circle"], padding="max_length", return_tensors="pt").input_ids
    one, two = (model(ids, output_hidden_states=True) for model in (first, second))
    expected = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)[0]
    torch.testing.assert_close(projector.text, expected)
    torch.testing.assert_close(projector.text_pooled, two.text_embeds[0])
    pooled = encode_by_two((first, second), (tokenizer, tokenizer), ["blue"]).pooled
    torch.testing.assert_close(projector.null_text_pooled, pooled[0])


def test_the_ip_adapter_trains_its_own_weights_through_a_denoiser_that_rests():
    trained = adapter("stable-diffusion")
    before = {name: value.clone() for name, value in trained.unet.state_dict().items()}
    trained.losses(batch(0, 1), Draws(0, [0, 1]))["sdm"].values.mean().backward()
    assert all(value.grad is not None and value.grad.any() for value in trained.projector.parameters())
    assert not any(value.requires_grad for value in trained.unet.parameters())
    assert (
        before.keys()
        == UNet2DConditionModel.from_pretrained(path("stable-diffusion"), subfolder="unet").state_dict().keys()
    )


def test_the_ip_adapter_without_a_text_encoder_is_refused_by_name():
    with pytest.raises(ValueError, match=r"^text: the IP-Adapter variant needs"):
        module(variant="ip_adapter")
    with pytest.raises(ValueError, match=r"^second_text: SDXL"):
        module(variant="ip_adapter", text=path("sdxl"))


@pytest.mark.parametrize("make", [module, pytest.param(adapter, marks=pytest.mark.slow)])
@torch.no_grad()
def test_it_is_exported_and_opened_again_as_editor_and_as_decoder(make: Any, tmp_path: Path):
    trained = make(sampling=AnySampling(num_steps=2, guidance_scale=2.0)).eval()
    trained.export(tmp_path / "folder", {})
    chosen = batch(0, 1)
    before = trained.make_pipeline()(chosen, 3).images
    again = open_editor(str(tmp_path / "folder"), sampling=AnySampling(num_steps=2, guidance_scale=2.0))
    torch.testing.assert_close(again(chosen, 3).images, before, atol=1e-5, rtol=1e-4)
    swapped = AnyToImageEditor(again.encoder, load_decoder(str(tmp_path / "folder"), WIDTH), None, again.sampling)
    assert torch.equal(swapped(chosen, 3).images, again(chosen, 3).images)


@torch.no_grad()
def test_pictures_sounds_and_texts_are_drawn_and_a_prior_translates_them():
    editor = module(sampling=AnySampling(num_steps=2)).eval().make_pipeline()
    silent = sample_at(9)
    del silent["attachments"]
    silent["instruction"] = "a red circle"
    chosen = as_batch([*map(sample_at, range(5)), silent])
    vectors, kinds = editor._given(chosen)
    for row, (found, names) in enumerate(zip(vectors, chosen["attachment_kinds"], strict=True)):
        attached = editor.encoder.attachments(chosen)[row]
        own = attached[0] if names else editor.encoder.texts([chosen["target_caption"][row]])[0]
        torch.testing.assert_close(found, own)
    assert set(kinds.tolist()) == {0, 1, 2}
    prior = load_prior(path("prior"))
    refining = AnyToImageEditor(editor.encoder, editor.decoder, prior, AnySampling(num_steps=2))
    plain = AnyToImageEditor(editor.encoder, editor.decoder, prior, AnySampling(num_steps=2, prior_weight=0.0))
    assert torch.equal(plain(chosen, 1).images, editor(chosen, 1).images)
    assert not torch.equal(refining(chosen, 1).images, editor(chosen, 1).images)


def test_a_decoder_of_other_vectors_is_refused(tmp_path: Path):
    module().export(tmp_path / "folder", {})
    with pytest.raises(BackboneError, match=r"^decoder: the projector has embed_dim 16, denoiser and encoder need 24"):
        load_decoder(str(tmp_path / "folder"), 24)
