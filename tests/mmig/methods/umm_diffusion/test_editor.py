"""Inference of UMM-Diffusion: eq 8 in one batch, its limits, what is refused, and the folder that it is exported to."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import DDIMScheduler, StableDiffusionPipeline

from mmig.diffusion.sampling import draw_noise
from mmig.diffusion.text import encode_text
from mmig.editor import MissingFieldError, with_settings
from mmig.methods.latent_diffusion.pipeline import DrawSampling, TextToImagePipeline
from mmig.methods.umm_diffusion.editor import SubjectEditor, SubjectSampling, as_ddim
from mmig.methods.umm_diffusion.encoder import unified_states
from mmig.methods.umm_diffusion.export import open_editor, save_umm_diffusion
from mmig.methods.umm_diffusion.words import SubjectError, place_subjects
from tests.mmig.methods.umm_diffusion.support import as_batch, batch, captioned, folders, module, picture
from tests.saved_run import start_from, texts_that_name

CLASS = "mmig.methods.umm_diffusion.module.UMMDiffusionModule"


@pytest.fixture(scope="module")
def editor() -> SubjectEditor:
    """With weights at which texts matter, and few steps."""
    trained = module(1)
    with torch.no_grad():
        for parameter in trained.text_encoder.parameters():
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return with_settings(trained.make_pipeline(), {"num_steps": 3})


def test_the_defaults_are_the_papers() -> None:
    assert SubjectSampling() == SubjectSampling(num_steps=50, guidance_scale=7.5, fuse_ratio=0.5)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=r"sampling.fuse_ratio: expected a finite number in \[0, 1\]"):
            SubjectSampling(fuse_ratio=wrong)


@torch.no_grad()
def test_a_step_is_eq_8_of_three_predictions(editor: SubjectEditor, monkeypatch: pytest.MonkeyPatch) -> None:
    one = with_settings(editor, {"num_steps": 1, "fuse_ratio": 0.3, "guidance_scale": 4.0})
    of, sizes = batch(1), []
    forward = one.unet.forward
    monkeypatch.setattr(one.unet, "forward", lambda x, *args, **kw: sizes.append(len(x)) or forward(x, *args, **kw))
    found = one(of, [torch.Generator().manual_seed(7)]).images
    assert sizes == [3]
    placed = place_subjects(one.tokenizer, of, "target_caption", "last")
    v = one.pseudo_word(one.image_encoder(of["attachment_images"][0]))[None]
    h_y, h_u = unified_states(one.text_encoder, placed.ids, placed.owner, v)
    empty = encode_text(one.text_encoder, one.tokenizer, [""])[0]
    ddim = DDIMScheduler.from_config(one.scheduler.config)
    ddim.set_timesteps(1)
    noisy = draw_noise((4, 16, 16), [torch.Generator().manual_seed(7)])
    eps_u, eps_y, eps_0 = (one.unet(noisy, ddim.timesteps[0], states).sample for states in (h_u, h_y, empty))
    combined = 0.3 * 4 * eps_u + 0.7 * 4 * eps_y + (1 - 4) * eps_0
    a = ddim.alphas_cumprod[ddim.timesteps[0]]
    clean = (noisy - (1 - a).sqrt() * combined) / a.sqrt()  # DDIM's only step ends at x0, scaled back to step 0
    last = ddim.final_alpha_cumprod
    latents = last.sqrt() * clean + (1 - last).sqrt() * combined
    expected = one.vae.decode(latents / one.vae.config.scaling_factor).sample.clamp(-1, 1)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_without_fusing_it_is_the_text_to_image_pipeline_to_the_bit(editor: SubjectEditor) -> None:
    of = batch(0, 1)
    generators = [torch.Generator().manual_seed(seed) for seed in (3, 4)]
    found = with_settings(editor, {"fuse_ratio": 0.0})(of, generators)
    parts = (editor.vae, editor.unet, editor.text_encoder, editor.tokenizer, as_ddim(editor.scheduler))
    plain = TextToImagePipeline(*parts, sampling=DrawSampling(3, 7.5))
    expected = plain.draw(found.texts, (64, 64), [torch.Generator().manual_seed(seed) for seed in (3, 4)])
    assert torch.equal(found.images, expected)
    assert "<image:0>" not in "".join(found.texts)


def test_without_fusing_it_is_diffusers_stable_diffusion(editor: SubjectEditor) -> None:
    of = batch(1)
    found = with_settings(editor, {"fuse_ratio": 0.0})(of, [torch.Generator().manual_seed(3)])
    theirs = StableDiffusionPipeline(
        vae=editor.vae,
        unet=editor.unet,
        text_encoder=editor.text_encoder,
        tokenizer=editor.tokenizer,
        scheduler=DDIMScheduler.from_config(editor.scheduler.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    theirs.set_progress_bar_config(disable=True)
    latents = draw_noise((4, 16, 16), [torch.Generator().manual_seed(3)])
    images = theirs(found.texts, num_inference_steps=3, guidance_scale=7.5, latents=latents, output_type="pt").images
    torch.testing.assert_close(found.images, images * 2 - 1, rtol=1e-3, atol=1e-3)


def test_the_picture_matters_with_fusing_and_not_without(editor: SubjectEditor) -> None:
    one, other = (as_batch([captioned("a <image:0> circle", picture(colour))]) for colour in ("red", "blue"))
    for ratio, same in ((0.0, True), (0.5, False), (1.0, False)):
        images = [with_settings(editor, {"fuse_ratio": ratio})(of, 0).images for of in (one, other)]
        assert torch.equal(*images) == same


def test_an_image_does_not_depend_on_its_batch(editor: SubjectEditor) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    together = editor(batch(0, 1), generators).images[1]
    alone = editor(batch(1), [torch.Generator().manual_seed(2)]).images[0]
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)


def test_no_picture_is_refused_where_it_counts(editor: SubjectEditor) -> None:
    of = as_batch([captioned("a circle")])
    with pytest.raises(MissingFieldError, match="'one': SubjectEditor needs the field 'attachment_images'"):
        editor(of, 0)
    assert with_settings(editor, {"fuse_ratio": 0.0})(of, 0).images.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("caption", "pictures", "said"),
    [
        ("a circle like <image:0>", 1, "'one': subject 0: its picture stands for no word of the text"),
        ("red " * 75 + "<image:0> circle", 1, "subject 0: its word 'circle' is token 76 of the text, of which"),
        ("a <image:0> <image:1> circle", 2, "subject 0: its picture stands for no word"),
    ],
)
def test_a_picture_without_a_word_is_one_clear_line(
    editor: SubjectEditor, caption: str, pictures: int, said: str
) -> None:
    of = as_batch([captioned(caption, *[picture()] * pictures)])
    with pytest.raises(SubjectError, match=said) as caught:
        editor(of, 0)
    assert "\n" not in str(caught.value)


def test_two_pictures_of_one_word_are_refused(editor: SubjectEditor) -> None:
    sample = captioned("a circle", picture(), picture("blue"))
    for attachment in sample["attachments"]:
        attachment["word"] = [2, 8]
    with pytest.raises(SubjectError, match="subject 1: its word 'circle' is that of subject 0 already"):
        editor(as_batch([sample]), 0)


def test_a_long_caption_is_cut_and_said(editor: SubjectEditor) -> None:
    output = editor(as_batch([captioned("a <image:0> circle" + " red" * 90, picture())]), 0)
    assert [str(cut) for cut in output.extras["cut"][0]] == [
        "target_caption: 92 tokens, of which the text encoder reads 75: what follows has no effect"
    ]


@pytest.mark.parametrize("embedding", ["projected", "pooled"])
def test_an_exported_folder_draws_the_same_and_starts_phase_two(tmp_path: Path, embedding: str) -> None:
    trained = module(1, image_embedding=embedding, multi_token="all", sampling=SubjectSampling(num_steps=2))
    ours = trained.make_pipeline()
    card = save_umm_diffusion(ours, tmp_path / "exported")
    assert "UMMDiffusionPipeline.from_pretrained" in card
    settings = yaml.safe_load((tmp_path / "exported/editor.yaml").read_text())
    assert settings["init_args"].get("image_embedding", "projected") == embedding
    theirs = open_editor(
        str(tmp_path / "exported"), embedding, settings["init_args"]["multi_token"], replace(ours.sampling)
    )
    assert (theirs.multi_token, theirs.image_encoder.mean) == ("all", (0.4, 0.5, 0.6))
    assert torch.equal(ours(batch(1), 5).images, theirs(batch(1), 5).images)
    assert texts_that_name(tmp_path / "exported", folders()[0]) == []
    arguments: dict[str, Any] = {
        "optimizer": {"lr": 1e-3},
        "backbone": str(tmp_path / "exported"),
        "unet": str(tmp_path / "exported"),
        "image_encoder": str(tmp_path / "exported"),
        "image_embedding": embedding,
        "phase": 2,
        "hidden_dim": 16,
    }
    started = start_from(tmp_path / "exported", CLASS, arguments)
    for name, value in ours.pseudo_word.state_dict().items():
        assert torch.equal(started.pseudo_word.state_dict()[name], value)


def test_diffusers_opens_the_folder_and_draws_by_the_text(tmp_path: Path, editor: SubjectEditor) -> None:
    save_umm_diffusion(editor, tmp_path / "exported")
    theirs = StableDiffusionPipeline.from_pretrained(tmp_path / "exported")
    found, expected = theirs.unet.state_dict(), editor.unet.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
