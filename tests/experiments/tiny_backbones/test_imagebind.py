"""The tiny ImageBind: what is contrasted with what, its size, its learning, its folder and its score."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from datamodules.schema import AttachmentSettings, Batch, collate, take, with_attachment_tensors
from datamodules.tinyworld.sample import with_images
from datamodules.tinyworld.sound_samples import draw_sound_sample
from experiments.tiny_backbones.clip_losses import paired_contrast
from experiments.tiny_backbones.export import ExportError, export_run
from experiments.tiny_backbones.imagebind import ImageBindModule
from experiments.tiny_backbones.imagebind_meanings import names_shown, shows
from experiments.tiny_backbones.imagebind_size import ImageBindSize, tiny_config
from experiments.tiny_backbones.score_imagebind import score_imagebind
from mmig.backbones.diffusion import load_tokenizer
from mmig.backbones.imagebind import load_imagebind, load_imagebind_tokenizer, text_ids
from mmig.backbones.imagebind_model import ImageBindModel
from mmig.backbones.loading import num_parameters
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.experiments.tiny_backbones.toy import SWAPS
from tests.terms import counts_of, values_of

ROOT = Path(__file__).parents[3]
TOKENIZER = ROOT / "assets/tiny/stable-diffusion/tokenizer"
WEIGHTS = {"text": 1.0, "audio": 1.0, "word": 1.0}
SIZE = ImageBindSize(
    embed_dim=32,
    patch_size=16,
    vision_width=32,
    vision_layers=1,
    text_width=32,
    text_layers=1,
    head_width=16,
    audio_width=32,
    audio_layers=1,
)


def build(weights: dict[str, float] = WEIGHTS) -> ImageBindModule:
    return ImageBindModule(OptimizerConfig(), weights, str(TOKENIZER), SWAPS, SIZE)


@pytest.fixture(scope="module")
def sounds() -> Batch:
    """Twelve samples of the world of sounds, as shards bring them."""
    settings = AttachmentSettings(attachment_size=8, audio_seconds=2.0)
    samples = [with_images(draw_sound_sample(0, "train", index), as_picture) for index in range(12)]
    return collate([with_attachment_tensors(sample, settings) for sample in samples])


def as_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels.astype(np.uint8) * 255 if pixels.dtype == np.bool_ else pixels)


def draws_of(batch: Batch) -> Draws:
    return Draws(0, batch["position"])


def test_a_contrast_is_the_symmetric_cross_entropy_without_what_is_left_out():
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    left_out = torch.zeros(3, 5, dtype=torch.bool)
    left_out[0, 1] = left_out[0, 0] = left_out[2, 4] = True  # of [0, 0], its own pair, nothing comes
    found = paired_contrast(logits, left_out, torch.tensor([True, True, True]))
    answers = torch.arange(3)
    forth, back = logits.clone(), logits[:, :3].T.clone()
    forth[0, 1] = forth[2, 4] = back[1, 0] = -torch.inf
    expected = (
        F.cross_entropy(forth, answers, reduction="none") + F.cross_entropy(back, answers, reduction="none")
    ) / 2
    torch.testing.assert_close(found, expected)
    without = paired_contrast(logits, left_out, torch.tensor([True, False, True]))
    rows = torch.tensor([0, 2])
    alone = paired_contrast(logits[rows][:, [0, 2, 3, 4]], left_out[rows][:, [0, 2, 3, 4]], torch.ones(2).bool())
    torch.testing.assert_close(without, torch.stack([alone[0], torch.tensor(0.0), alone[1]]))


def test_a_picture_that_shows_what_a_sound_means_is_no_negative():
    sample = draw_sound_sample(0, "train", 2)["metadata"]  # an orange cross becomes blue beside a green diamond
    target, source = sample["target_scene"], sample["source_scene"]
    assert sample["sound"] == "blue"
    assert names_shown(target) == {"cross", "blue", "diamond", "green"}
    found = shows([target, source, None], ["blue", "diamond", "fog", ""])
    assert found.tolist() == [[True, False, True], [True, True, True], [False, False, True], [False, False, True]]


def test_terms_are_imagebinds_contrast_of_unit_vectors_at_its_temperatures(sounds: Batch):
    module = build().eval()
    values, rows = values_of(module, sounds, draws_of(sounds)), range(12)
    encoder, names = module.encoder, [known["sound"] for known in sounds["metadata"]]
    pictures = encoder.embed_images(torch.cat([sounds["target"], sounds["source"]]))
    scenes = [known[f"{field}_scene"] for field in ("target", "source") for known in sounds["metadata"]]
    heard = encoder.embed_sounds(sounds["attachment_audio"][:, 0], sounds["attachment_audio_samples"][:, 0])
    written = encoder.embed_texts(text_ids(module.tokenizer, names))
    for term, vectors, scale in (("audio", heard, 20.0), ("word", written, 1 / 0.07)):
        for row in rows:
            seen = [j for j in range(24) if j == row or names[row] not in names_shown(scenes[j])]
            asked = [i for i in rows if i == row or names[i] not in names_shown(scenes[row])]
            forth = (scale * pictures[seen] @ vectors[row]).log_softmax(0)[seen.index(row)]
            back = (scale * vectors[asked] @ pictures[row]).log_softmax(0)[asked.index(row)]
            torch.testing.assert_close(values[term][row], -(forth + back) / 2, atol=1e-4, rtol=1e-4)
    assert (values["text"] > 0).all()


def test_what_a_sample_lacks_counts_nowhere(sounds: Batch):
    batch = take(sounds, range(4))
    batch["has_attachment_audio"] = torch.tensor([[True], [True], [False], [True]])
    batch["metadata"] = [*batch["metadata"][:3], {}]
    batch["has_target"] = torch.tensor([False, True, True, True])
    counts = counts_of(build(), batch, draws_of(batch))
    assert counts["audio"].tolist() == [0, 1, 0, 0] and counts["word"].tolist() == [0, 1, 1, 0]
    assert counts["text"].tolist() == [1, 1, 1, 1]


def test_a_batch_without_sounds_has_no_sound_to_learn(batch: Batch):
    module = build()
    assert counts_of(module, batch, draws_of(batch))["audio"].sum() == 0
    values = values_of(module, batch, draws_of(batch))
    assert (values["audio"] == 0).all() and (values["text"][:7] > 0).all()


def test_a_term_without_a_weight_is_left_out(sounds: Batch):
    assert list(values_of(build({"audio": 1.0}), sounds, draws_of(sounds))) == ["audio"]


def test_each_term_teaches_the_tower_of_its_modality_and_that_of_pictures(sounds: Batch):
    for term, tower in (("text", "text"), ("audio", "audio"), ("word", "text")):
        module = build({term: 1.0})
        values_of(module, sounds, draws_of(sounds))[term].sum().backward()
        named = module.encoder.named_parameters()
        taught = {name.split(".")[0] for name, own in named if own.grad is not None and own.grad.any()}
        assert taught - {"text_log_scale"} == {"vision", tower}
        assert ("text_log_scale" in taught) == (tower == "text")  # the factor of sounds is fixed


def test_a_few_steps_learn_the_batch(sounds: Batch):
    module = build()
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        total = sum(value.mean() for value in values_of(module, sounds, draws_of(sounds)).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.6 * totals[0]


def test_the_folder_gives_the_vectors_of_the_trained_towers_and_is_scored(sounds: Batch, tmp_path: Path):
    module = build().eval()
    for parameter in module.encoder.parameters():
        parameter.data = parameter.data.half().float()
    assert export_run("imagebind", module, tmp_path) == [tmp_path / "imagebind"]
    encoder, tokenizer = (load(tmp_path / "imagebind") for load in (load_imagebind, load_imagebind_tokenizer))
    heard = sounds["attachment_audio"][:, 0], sounds["attachment_audio_samples"][:, 0]
    torch.testing.assert_close(encoder.embed_sounds(*heard), module.encoder.embed_sounds(*heard))
    torch.testing.assert_close(encoder.embed_images(sounds["target"]), module.encoder.embed_images(sounds["target"]))
    assert torch.equal(text_ids(tokenizer, ["a red ring"]), text_ids(module.tokenizer, ["a red ring"]))
    found = score_imagebind(tmp_path / "imagebind", [take(sounds, range(5)), take(sounds, range(5, 12))])
    assert (found["sounds"], found["words"], found["images"]) == (12, 27, 12)
    assert all(0 <= found[name] <= 1 for name in ("sound_to_word", "sound_to_image", "image_to_text"))
    assert 0 < found["sound_to_image_chance"] < 1


def test_what_a_run_of_it_exports_serves_where_an_imagebind_is_named(sounds: Batch, tmp_path: Path):
    module = build().eval()
    module.export(tmp_path, {})
    encoder, tokenizer = (load(tmp_path) for load in (load_imagebind, load_imagebind_tokenizer))
    assert torch.equal(encoder.embed_images(sounds["target"]), module.encoder.embed_images(sounds["target"]))
    assert torch.equal(text_ids(tokenizer, ["a red ring"]), text_ids(module.tokenizer, ["a red ring"]))


def test_another_run_is_refused(sounds: Batch, tmp_path: Path):
    with pytest.raises(ExportError, match="export clip: expected a run of ClipModule, found ImageBindModule"):
        export_run("clip", build(), tmp_path)


def test_the_configured_size_takes_at_most_four_megabytes_in_half_precision():
    settings = yaml.safe_load((ROOT / "configs/tiny/imagebind.yaml").read_text(encoding="utf-8"))
    size = ImageBindSize(**settings["model"]["init_args"]["size"])
    with torch.device("meta"):
        model = ImageBindModel(tiny_config(size, load_tokenizer(TOKENIZER)))
    assert 2 * num_parameters(model) <= 4_000_000
    longest = 0.06 + 1.15  # seconds of a sound of the small world
    assert size.num_clips == 1 and longest < size.clip_seconds <= (size.num_frames + 2) / 100
