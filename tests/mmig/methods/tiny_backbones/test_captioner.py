"""The tiny captioner: placeholders, its labels, the start from CLIP's tower, and its exported folder."""

from pathlib import Path

import pytest
import torch

from datamodules.schema import Batch
from mmig.backbones.blip2 import load_blip2, load_blip2_processor
from mmig.backbones.clip import load_clip_vision
from mmig.methods.tiny_backbones.captioner import CaptionerModule
from mmig.methods.tiny_backbones.captioner_model import CaptionerSize, start_from_clip
from mmig.methods.tiny_backbones.clip_export import export_clip
from mmig.methods.tiny_backbones.clip_model import ClipSize, build_clip, normalise_images
from mmig.methods.tiny_backbones.export import export_run
from mmig.optim import OptimizerConfig
from mmig.rng import Draws
from tests.mmig.methods.tiny_backbones.toy import picture

SIZE = CaptionerSize(
    vision_width=32, vision_layers=6, query_width=32, num_query_tokens=4, text_width=32, text_layers=2, head_width=16
)


@pytest.fixture
def module(tokenizer_root: Path) -> CaptionerModule:
    return CaptionerModule(OptimizerConfig(), {"caption": 1.0}, str(tokenizer_root / "blip2"), SIZE).eval()


def test_every_row_begins_with_all_placeholders_and_start(module: CaptionerModule):
    ids, mask, labels = module._rows(["A red square.", "A"])
    config = module.captioner.config
    prefix = [config.image_token_index] * 4 + [module.tokenizer.bos_token_id]
    assert ids[:, :5].tolist() == [prefix, prefix]
    assert (labels[:, :5] == -100).all() and (labels[mask == 0] == -100).all()
    assert labels[0, -1] == module.tokenizer.eos_token_id


def test_the_image_reaches_the_loss(module: CaptionerModule, batch: Batch):
    batch["source"].requires_grad_(True)
    module.losses(batch, Draws(0, batch["position"]))["caption"].sum().backward()
    reached = batch["source"].grad.abs().amax((1, 2, 3)) > 0
    assert reached.tolist() == [True, False] * 4  # odd positions show their target


def test_a_sample_without_source_shows_its_target(module: CaptionerModule, batch: Batch):
    batch["position"] += 1
    assert module._shows_target(batch).tolist() == [True, False] * 3 + [True, True]


def test_counts_are_caption_tokens_with_the_end(module: CaptionerModule, batch: Batch):
    expected = [
        len(module.tokenizer(batch["target_caption" if row % 2 else "source_caption"][row]).input_ids)
        for row in range(8)
    ]
    assert module.loss_counts(batch)["caption"].tolist() == expected  # the start token stands for the end token
    batch["has_target"][1] = False
    batch["has_source"][1] = False
    assert module.loss_counts(batch)["caption"][1] == 0


def test_queries_are_not_alike(module: CaptionerModule, batch: Batch):
    with torch.no_grad():
        features = module.captioner.get_image_features(normalise_images(batch["target"][:1])).pooler_output
    assert features.std(dim=1).max() > 1e-3


def test_no_dropout_anywhere(module: CaptionerModule, batch: Batch):
    draws = Draws(0, batch["position"])
    expected = module.losses(batch, draws)["caption"]
    torch.testing.assert_close(module.train().losses(batch, draws)["caption"], expected)


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
    ids = module._rows([""])[0][:, :-1]
    assert inputs.input_ids.tolist() == ids.tolist()
    expected = module.captioner.generate(pixel_values=normalise_images(pixels), do_sample=False, max_new_tokens=8)
    found = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    assert found[0].tolist()[-8:] == expected[0].tolist()[-8:]
