"""The tiny CLIP: its loss, its learning, and three exports that give the features of the trained towers."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from experiments.tiny_backbones.clip import ClipModule
from experiments.tiny_backbones.clip_export import export_clip
from experiments.tiny_backbones.clip_losses import contrastive_losses, next_token_losses
from experiments.tiny_backbones.clip_model import ClipSize, image_states, normalise_images, text_states
from experiments.tiny_backbones.export import export_run
from mmig.backbones.clip import load_clip_vision, load_open_clip
from mmig.backbones.diffusion import load_text_encoder, load_tokenizer
from mmig.methods.mmig.llm.visual_tokens import class_tokens, depths
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.experiments.tiny_backbones.toy import SWAPS, caption
from tests.terms import counts_of, values_of

SIZE = ClipSize(embed_dim=32, vision_width=32, vision_layers=6, text_width=32, text_layers=2, head_width=16)
WEIGHTS = dict.fromkeys(ClipModule.known_losses, 1.0)
DENSE = tuple(name for name in WEIGHTS if name.startswith("dense"))


@pytest.fixture(scope="module")
def module(tokenizer_root: Path) -> ClipModule:
    """A random small CLIP whose weights are exact in half precision, as the exported ones are."""
    module = ClipModule(OptimizerConfig(), WEIGHTS, str(tokenizer_root / "clip"), SWAPS, SIZE).eval()
    for parameter in module.clip.parameters():
        parameter.data = parameter.data.half().float()
    return module


@pytest.fixture(scope="module")
def exported(module: ClipModule, tokenizer_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("assets")
    export_clip(module.clip.state_dict(), SIZE, tokenizer_root / "clip", root)
    return root


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


TEXTS = [caption("red", "left"), caption("white", "bottom"), "Make it red."]


def test_open_clip_export_gives_the_towers_features(module: ClipModule, exported: Path, images: torch.Tensor):
    clip = load_open_clip(exported / "clip")
    torch.testing.assert_close(clip.model.encode_image(normalise_images(images)), image_states(module.clip, images)[0])
    expected = text_states(module.clip, module.tokens(TEXTS)[0])[0]
    torch.testing.assert_close(clip.model.encode_text(clip.tokenizer(TEXTS)), expected)


def test_clip_eval_is_one_open_clip_folder(module: ClipModule, images: torch.Tensor, tmp_path: Path):
    assert export_run("clip-eval", module, tmp_path) == [tmp_path / "clip-eval"] == list(tmp_path.iterdir())
    found = load_open_clip(tmp_path / "clip-eval").model.encode_image(normalise_images(images))
    torch.testing.assert_close(found, image_states(module.clip, images)[0])


def test_vision_export_gives_the_same_feature(module: ClipModule, exported: Path, images: torch.Tensor):
    vision = load_clip_vision(exported / "clip-vision")
    pooled = vision(normalise_images(images)).pooler_output
    torch.testing.assert_close(pooled @ module.clip.visual.proj, image_states(module.clip, images)[0])


def test_text_export_gives_the_same_states(module: ClipModule, exported: Path):
    encoder = load_text_encoder(exported / "stable-diffusion")
    ids = load_tokenizer(exported / "stable-diffusion")(
        TEXTS, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    output = encoder(ids)
    features, states = text_states(module.clip, ids)
    torch.testing.assert_close(output.last_hidden_state, states)
    torch.testing.assert_close(output.pooler_output @ module.clip.text_projection, features)


def test_preprocessor_and_open_clip_declare_the_same_pixels(exported: Path):
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor.from_pretrained(exported / "clip-vision")
    clip = load_open_clip(exported / "clip")
    assert (tuple(processor.image_mean), tuple(processor.image_std)) == (clip.mean, clip.std)
    assert (processor.size["height"], processor.do_center_crop) == (clip.image_size, False)


def test_weights_are_stored_in_half_precision(exported: Path):
    from safetensors.torch import load_file

    for file in exported.rglob("*.safetensors"):
        assert {value.dtype for value in load_file(file).values()} == {torch.float16}


def test_contrastive_loss_is_the_symmetric_cross_entropy():
    images, texts = torch.randn(4, 8), torch.randn(4, 8)
    logits = 5 * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    answers = torch.arange(4)
    expected = (F.cross_entropy(logits, answers) + F.cross_entropy(logits.T, answers)) / 2
    losses = contrastive_losses(images, texts, list("abcd"), torch.ones(4, dtype=torch.bool), torch.tensor(5.0))
    torch.testing.assert_close(losses.mean(), expected)


def test_equal_texts_are_no_negatives():
    images, texts = torch.randn(3, 8), torch.randn(2, 8)
    both = torch.ones(3, dtype=torch.bool)
    doubled = contrastive_losses(images, texts[[0, 0, 1]], ["a", "a", "b"], both, torch.tensor(5.0))
    alone = contrastive_losses(images[[0, 2]], texts, ["a", "b"], both[:2], torch.tensor(5.0))
    torch.testing.assert_close(doubled[0], alone[0])


def test_hard_negatives_count_for_images_only():
    images, texts = torch.randn(2, 8), torch.randn(3, 8)
    both = torch.ones(2, dtype=torch.bool)
    plain = contrastive_losses(images, texts[:2], ["a", "b"], both, torch.tensor(5.0))
    harder = contrastive_losses(images, texts, ["a", "b", "c"], both, torch.tensor(5.0))
    absent = contrastive_losses(images, texts, ["a", "b", ""], both, torch.tensor(5.0))
    assert (harder > plain).all()
    torch.testing.assert_close(absent, plain)


def test_an_invalid_pair_changes_nothing_and_costs_nothing():
    images, texts = torch.randn(3, 8), torch.randn(3, 8)
    valid = torch.tensor([True, True, False])
    losses = contrastive_losses(images, texts, ["a", "b", ""], valid, torch.tensor(5.0))
    alone = contrastive_losses(images[:2], texts[:2], ["a", "b"], valid[:2], torch.tensor(5.0))
    torch.testing.assert_close(losses, torch.cat([alone, torch.zeros(1)]))


def test_next_token_loss_ignores_padding():
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    losses = next_token_losses(logits, ids, torch.tensor([5, 3]))
    expected = torch.stack([F.cross_entropy(logits[0, :-1], ids[0, 1:]), F.cross_entropy(logits[1, :2], ids[1, 1:3])])
    torch.testing.assert_close(losses, expected)


def test_a_sample_without_source_counts_by_its_target(module: ClipModule, batch: Batch):
    values = values_of(module, batch, Draws(0, batch["position"]))
    assert set(values) == set(WEIGHTS)
    for name in ("contrastive", "caption"):
        assert torch.isfinite(values[name]).all() and (values[name] > 0).all()
    batch["has_target"][7] = False
    assert values_of(module, batch, Draws(0, batch["position"]))["contrastive"][7] == 0
    assert counts_of(module, batch, Draws(0, batch["position"]))["contrastive"].tolist() == [1.0] * 7 + [0.0]


def test_dense_terms_count_samples_with_a_scene_graph(module: ClipModule, batch: Batch):
    counts = counts_of(module, batch, Draws(0, batch["position"]))
    assert all(not counts[name].any() for name in DENSE)
    batch = collate([make_sample(0, "train", index, photographs=False) for index in range(2)])
    draws = Draws(0, batch["position"])
    counts, values = counts_of(module, batch, draws), values_of(module, batch, draws)
    assert all(counts[name].all() and (values[name] > 0).all() for name in DENSE)


@pytest.mark.parametrize(
    ("term", "tower"),
    [
        ("dense_patches", "visual"),
        ("dense_class_tokens", "visual"),
        ("dense_texts", "transformer"),
        ("dense_edits", "transformer"),
    ],
)
def test_a_dense_term_teaches_the_tower_whose_states_it_reads(module: ClipModule, term: str, tower: str):
    batch = collate([make_sample(0, "train", 0, photographs=False)])
    module.zero_grad()
    values_of(module, batch, Draws(0, batch["position"]))[term].sum().backward()
    taught = {name.split(".")[0] for name, p in module.clip.named_parameters() if p.grad is not None and p.grad.any()}
    assert tower in taught
    assert not {"visual", "transformer"} - {tower} & taught
    module.zero_grad()


def test_a_term_without_a_weight_is_left_out(tokenizer_root: Path, batch: Batch):
    module = ClipModule(OptimizerConfig(), {"contrastive": 1.0}, str(tokenizer_root / "clip"), SWAPS, SIZE)
    assert list(values_of(module, batch, Draws(0, batch["position"]))) == ["contrastive"]
    assert not any(name.startswith("decoder") for name, _ in module.named_parameters())


def test_class_tokens_are_those_of_the_method(module: ClipModule, exported: Path, images: torch.Tensor):
    vision = load_clip_vision(exported / "clip-vision")
    expected = class_tokens(vision, normalise_images(images), depths(SIZE.vision_layers))
    torch.testing.assert_close(image_states(module.clip, images).class_tokens, expected)
    last = vision(normalise_images(images)).last_hidden_state[:, 1:]
    torch.testing.assert_close(image_states(module.clip, images).patches, last)


def test_a_few_steps_learn_the_batch(tokenizer_root: Path, batch: Batch):
    module = ClipModule(OptimizerConfig(), WEIGHTS, str(tokenizer_root / "clip"), SWAPS, SIZE)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        total = sum(value.mean() for value in values_of(module, batch, Draws(0, batch["position"])).values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(total.item())
    assert totals[-1] < 0.5 * totals[0]
