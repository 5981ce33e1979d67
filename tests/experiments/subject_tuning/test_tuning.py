"""Editors that tune on each subject: what moves, what is drawn without a step, and how evaluate.py sees them."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml

import evaluate
from datamodules.schema import without_placeholders
from datamodules.tinyworld.contents import ContentWorld
from datamodules.tinyworld.write import write_split
from experiments.subject_tuning.dreambooth import DreamBooth
from experiments.subject_tuning.textual_inversion import TextualInversion
from experiments.subject_tuning.tuning import Subject, SubjectTuning, TuningSampling, shown
from mmig.editor import with_settings
from mmig.methods.latent_diffusion.pipeline import DrawSampling, open_editor
from mmig.methods.umm_diffusion.words import subject_tokens
from mmig.training.lora import LoRAConfig
from mmig.training.rng import sample_generators
from tests.mmig.methods.umm_diffusion.support import as_batch, batch, captioned, folders, picture

SMALL = TuningSampling(num_steps=2, guidance_scale=2.0, tuning_steps=3, learning_rate=0.05)
BOTH = (TextualInversion, DreamBooth)


@cache
def editor(kind: type[SubjectTuning]) -> SubjectTuning:
    made = kind(str(folders()[0]), SMALL)
    with torch.no_grad():
        for parameter in made.text_encoder.parameters():  # at which texts matter
            parameter.mul_(6.0 if parameter.ndim > 1 else 1.0)
    return made


def drawn(of: SubjectTuning, *indices: int) -> torch.Tensor:
    samples = batch(*indices)
    return of(samples, sample_generators(0, samples["key"])).images


def weights(of: SubjectTuning) -> list[torch.Tensor]:
    return [value.clone() for part in (of.unet, of.text_encoder, of.vae) for value in part.state_dict().values()]


@pytest.mark.parametrize("kind", BOTH)
def test_a_sample_is_tuned_for_itself_and_leaves_nothing_behind(kind: type[SubjectTuning]) -> None:
    of = editor(kind)
    before = weights(of)
    alone, together = drawn(of, 1), drawn(of, 0, 1)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)
    assert torch.equal(drawn(of, 1), alone)
    assert all(map(torch.equal, weights(of), before))
    assert not torch.allclose(drawn(with_settings(of, {"tuning_steps": 0}), 1), alone, atol=1e-3)


@pytest.mark.parametrize("kind", BOTH)
def test_without_a_step_it_draws_the_text(kind: type[SubjectTuning]) -> None:
    of, samples = editor(kind), batch(0)
    caption = samples["target_caption"][0]
    marked = caption.replace("<image:0>", "sks").replace("<image:1>", "pwz")
    texts = [marked if kind is DreamBooth else without_placeholders(caption)]
    plain = open_editor(str(folders()[0]), DrawSampling(2, 2.0))
    plain.text_encoder = of.text_encoder
    expected = plain.draw(texts, (64, 64), sample_generators(0, samples["key"]))
    assert torch.equal(drawn(with_settings(of, {"tuning_steps": 0}), 0), expected)


def test_two_subjects_are_learnt_apart() -> None:
    text, words = "a circle and a square", ((2, 8), (15, 21))
    one, two, three = torch.randn(3, 1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    for kind in BOTH:
        of = editor(kind)
        tuned, other = (
            of.tune(text, [Subject(one, words[0]), Subject(second, words[1])], torch.Generator().manual_seed(3))
            for second in (two, three)
        )
        if kind is TextualInversion:  # the first word is what it was, the second another
            places, _ = subject_tokens(of.tokenizer, text, dict(enumerate(words)))
            differ = (tuned.states != other.states)[0].any(dim=-1)
            assert differ.nonzero()[0].item() == places[1][0]
        else:
            assert torch.equal(tuned.states, other.states)
            weights = [[value for value in each.unet.parameters() if value.requires_grad] for each in (tuned, other)]
            assert weights[0] and not all(map(torch.equal, *weights))


def test_the_steps_lower_the_loss_on_the_picture() -> None:
    samples = batch(0)
    for kind, lora in ((TextualInversion, {}), (DreamBooth, {"lora": LoRAConfig(rank=4)})):
        of = kind(str(folders()[0]), TuningSampling(tuning_steps=40, learning_rate=0.02, num_noises=4), **lora)
        caption, subjects = of.subjects(samples)
        trained: list[float] = []
        original = of.noise_loss
        of.noise_loss = lambda *given, original=original, trained=trained: _kept(original(*given), trained)
        of.tune(caption, subjects[:1], torch.Generator().manual_seed(0))
        assert sum(trained[-10:]) < sum(trained[:10])


def _kept(loss: torch.Tensor, into: list[float]) -> torch.Tensor:
    into.append(float(loss))
    return loss


def test_the_picture_stands_in_the_middle_of_its_edge() -> None:
    picture = torch.zeros(3, 32, 32)
    picture[:, 8:24, 8:24] = 1.0
    image = shown(picture, 16, (64, 48))
    assert image.shape == (1, 3, 64, 48)
    assert image[0, :, 32, 24].tolist() == pytest.approx([1.0] * 3, abs=0.1)
    assert image[0, :, 0, 0].tolist() == pytest.approx([0.0] * 3, abs=0.05)
    assert shown(picture, 100, (64, 48)).shape == (1, 3, 64, 48)


def test_a_picture_without_a_word_and_a_third_subject_are_refused() -> None:
    with pytest.raises(ValueError, match="attachment 0 is bound to no word of the caption"):
        editor(DreamBooth)(as_batch([captioned("a circle", picture())]), 0)
    with pytest.raises(ValueError, match="expected at most 2 subjects, found 3"):
        editor(DreamBooth)(as_batch([captioned("a <image:0> dog <image:1> cat <image:2> cow", *[picture()] * 3)]), 0)


@pytest.mark.parametrize("kind", BOTH)
def test_evaluate_scores_it_with_its_seconds(kind: type[SubjectTuning], tmp_path: Path) -> None:
    write_split(tmp_path / "test", "test", 2, ContentWorld("subjects"))
    data = {"test": str(tmp_path / "test"), "attachment_size": 64, "max_attachments": 2}
    section = {"class_path": "datamodules.shard_data.ShardData", "init_args": data}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({"data": section}), encoding="utf-8")
    given = {"path": str(folders()[0]), "sampling": {"num_steps": 2, "tuning_steps": 2}}
    made = {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": given}
    (tmp_path / "editor.yaml").write_text(yaml.safe_dump({"editor": made}), encoding="utf-8")
    words = ["--config", str(tmp_path / "editor.yaml"), "--data", str(tmp_path / "data.yaml"), "--split", "test"]
    words += ["--judge", "datamodules.tinyworld.judge.TinyWorldJudge", "--out", str(tmp_path / "out")]
    measures = ["subject_fidelity", "experiments.subject_tuning.measures.PreparationSeconds"]
    assert not evaluate.main([*words, "--metrics", *measures])
    found = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert found["subject_fidelity"]["n"] == found["preparation_seconds"]["n"] == 2
    assert found["preparation_seconds"]["value"] > 0
