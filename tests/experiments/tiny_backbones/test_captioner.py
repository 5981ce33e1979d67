"""The tiny captioner: placeholders, its labels, the start from CLIP's tower, and its exported folder."""

from pathlib import Path

import pytest
import torch

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from experiments.tiny_backbones.captioner import CaptionerModule
from experiments.tiny_backbones.captioner_model import CaptionerSize, start_from_clip
from experiments.tiny_backbones.clip_export import export_clip
from experiments.tiny_backbones.clip_model import ClipSize, build_clip, normalise_images
from experiments.tiny_backbones.export import export_run
from mmig.backbones.blip2 import load_blip2, load_blip2_processor
from mmig.backbones.clip import load_clip_vision
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.experiments.tiny_backbones.toy import picture
from tests.terms import counts_of, values_of

SIZE = CaptionerSize(
    vision_width=32, vision_layers=6, query_width=32, num_query_tokens=4, text_width=32, text_layers=2, head_width=16
)
DENSE = ("dense_patches", "dense_queries")
WEIGHTS = dict.fromkeys(("caption", *DENSE), 1.0)


@pytest.fixture
def module(tokenizer_root: Path) -> CaptionerModule:
    return CaptionerModule(OptimizerConfig(), WEIGHTS, str(tokenizer_root / "blip2"), SIZE).eval()


@pytest.fixture
def world() -> Batch:
    """Four samples whose scenes are known."""
    return collate([make_sample(0, "train", index, level="plain") for index in range(4)])


def test_every_row_begins_with_all_placeholders_and_start(module: CaptionerModule):
    texts = ["A red square.", "A"]
    answers = [module.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
    ids, mask, labels = module._rows(answers)
    config = module.captioner.config
    prefix = [config.image_token_index] * 4 + [module.tokenizer.bos_token_id]
    assert ids[:, :5].tolist() == [prefix, prefix]
    assert (labels[:, :5] == -100).all() and (labels[mask == 0] == -100).all()
    assert labels[0, -1] == module.tokenizer.eos_token_id


def test_the_target_reaches_every_loss(module: CaptionerModule, world: Batch):
    world["target"].requires_grad_(True)
    for value in values_of(module, world, Draws(0, world["position"])).values():
        (gradient,) = torch.autograd.grad(value.sum(), world["target"], retain_graph=True)
        assert (gradient.abs().amax((1, 2, 3)) > 0).all()


def test_a_sample_without_target_shows_its_source(module: CaptionerModule, batch: Batch):
    before = values_of(module, batch, Draws(0, batch["position"]))["caption"]
    batch["has_target"][2] = False
    batch["target"][2] = 0
    after = values_of(module, batch, Draws(0, batch["position"]))["caption"]
    assert after[2] != before[2]
    batch["target"][2] = 1
    torch.testing.assert_close(values_of(module, batch, Draws(0, batch["position"]))["caption"], after)


def test_counts_are_caption_tokens_with_the_end(module: CaptionerModule, batch: Batch):
    expected = [len(module.tokenizer(text).input_ids) for text in batch["target_caption"]]
    counts = counts_of(module, batch, Draws(0, batch["position"]))["caption"]
    assert counts.tolist() == expected  # the start token stands for the end token
    batch["has_target"][1] = False
    batch["has_source"][1] = False
    assert counts_of(module, batch, Draws(0, batch["position"]))["caption"][1] == 0


def test_scenes_count_where_they_are_known(module: CaptionerModule, batch: Batch, world: Batch):
    assert not any(counts_of(module, batch, Draws(0, batch["position"]))[name].any() for name in DENSE)
    del world["metadata"][1]["target_scene"]
    world["has_target"][2] = False  # its source is shown
    world["has_target"][3] = world["has_source"][3] = False
    counts = counts_of(module, world, Draws(0, world["position"]))
    assert all(counts[name].tolist() == [True, False, True, False] for name in DENSE)


def test_what_is_read_is_the_scene_that_is_shown(module: CaptionerModule, world: Batch):
    draws = Draws(0, world["position"])
    before = values_of(module, world, draws)["dense_queries"]
    world["metadata"][0]["source_scene"] = None
    torch.testing.assert_close(values_of(module, world, draws)["dense_queries"], before)
    world["metadata"][0]["target_scene"]["things"] = []
    after = values_of(module, world, draws)["dense_queries"]
    assert after[0] != before[0] and torch.equal(after[1:], before[1:])


def test_readers_teach_no_part_behind_what_they_read(module: CaptionerModule, world: Batch):
    def taught(term: str) -> set[str]:
        module.zero_grad()
        values_of(module, world, Draws(0, world["position"]))[term].sum().backward()
        parts = ((name.split(".")[0], part) for name, part in module.captioner.named_parameters())
        return {name for name, part in parts if part.grad is not None and part.grad.any()}

    assert taught("dense_patches") == {"vision_model"}
    assert taught("dense_queries") == {"vision_model", "qformer", "query_tokens"}


def test_a_checkpoint_holds_every_weight_tied_ones_too(module: CaptionerModule):
    assert module.stored_names() == set(module.state_dict())


def test_queries_are_not_alike(module: CaptionerModule, batch: Batch):
    with torch.no_grad():
        features = module.captioner.get_image_features(normalise_images(batch["target"][:1])).pooler_output
    assert features.std(dim=1).max() > 1e-3


def test_no_dropout_anywhere(module: CaptionerModule, batch: Batch):
    draws = Draws(0, batch["position"])
    expected = values_of(module, batch, draws)["caption"]
    torch.testing.assert_close(values_of(module.train(), batch, draws)["caption"], expected)


def test_vision_starts_from_clip(module: CaptionerModule, tokenizer_root: Path, tmp_path: Path, batch: Batch):
    size = ClipSize(embed_dim=32, vision_width=32, text_width=32, text_layers=1, head_width=16)
    torch.manual_seed(0)
    export_clip(build_clip(size, 40).state_dict(), size, tokenizer_root / "clip", tmp_path)
    clip = load_clip_vision(tmp_path / "clip-vision")
    images = normalise_images(batch["target"])

    def likeness() -> torch.Tensor:
        states = module.captioner.vision_model(images).last_hidden_state
        expected = clip(images).last_hidden_state
        return torch.cosine_similarity(states, clip.post_layernorm(expected), dim=-1).mean()

    before = likeness()
    start_from_clip(module.captioner, clip, images)
    assert likeness() > max(before + 0.5, 0.8)


def test_another_width_is_refused(module: CaptionerModule, tokenizer_root: Path, tmp_path: Path, batch: Batch):
    size = ClipSize(embed_dim=32, vision_width=64, text_width=32, text_layers=1, head_width=16)
    export_clip(build_clip(size, 40).state_dict(), size, tokenizer_root / "clip", tmp_path)
    with pytest.raises(ValueError, match="same vision_width"):
        start_from_clip(module.captioner, load_clip_vision(tmp_path / "clip-vision"), batch["target"])


def test_export_loads_and_gives_the_same_caption(module: CaptionerModule, batch: Batch, tmp_path: Path):
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()
    export_run("captioner", module, tmp_path)
    model, processor = load_blip2(tmp_path / "blip2"), load_blip2_processor(tmp_path / "blip2")
    inputs = processor(images=[picture("red", "left")], text=[""], return_tensors="pt")
    pixels = batch["source"][:1]  # the same picture
    torch.testing.assert_close(inputs.pixel_values, normalise_images(pixels), atol=1e-5, rtol=0)
    ids = module._rows([[]])[0][:, :-1]
    assert inputs.input_ids.tolist() == ids.tolist()
    expected = module.captioner.generate(pixel_values=normalise_images(pixels), do_sample=False, max_new_tokens=8)
    found = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert found[0].tolist()[-8:] == expected[0].tolist()[-8:]
