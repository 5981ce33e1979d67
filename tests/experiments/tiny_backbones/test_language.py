"""The tiny language model: what its prompt says, which tokens count, and its exported folder."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from datamodules.schema import Batch, collate
from datamodules.tinyworld.inferable import completions
from datamodules.tinyworld.sample import draw_from
from datamodules.tinyworld.world import World
from experiments.tiny_backbones.export import export_run
from experiments.tiny_backbones.language import SCENES, TASKS, LanguageModule, LanguageSize
from experiments.tiny_backbones.prompt import EXPRESSIVE_TEMPLATE, encode, format_prompt, padded_rows
from experiments.tiny_backbones.score import generate_left_padded
from mmig.backbones.llm import load_llm, load_llm_tokenizer
from mmig.language.token_loss import IGNORED, token_loss
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.experiments.tiny_backbones.toy import caption
from tests.terms import counts_of, values_of

SIZE = LanguageSize(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2)


def make_module(root: Path, **options: Any) -> LanguageModule:
    return LanguageModule(
        OptimizerConfig(), dict.fromkeys((*TASKS, *SCENES), 1.0), str(root / "llama"), SIZE, **options
    ).eval()


def test_prompt_says_image_and_instruction():
    assert format_prompt("Make it red.", "a box") == "Image: a box\nInstruction: Make it red.\nResponse:"
    assert format_prompt("Make it red.") == "Image: N/A\nInstruction: Make it red.\nResponse:"


def test_the_expressive_edit_is_asked_for_in_other_words():
    prompt = format_prompt("Make it red.", "a box", EXPRESSIVE_TEMPLATE)
    assert prompt == "Image: a box\nInstruction: Make it red.\nEdit:"


def test_labels_hold_answer_and_end_only():
    ids, mask, labels = padded_rows([([1, 5, 6], [7, 2]), ([1, 5], [2])], pad=0)
    assert ids.tolist() == [[1, 5, 6, 7, 2], [1, 5, 2, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert labels.tolist() == [[IGNORED] * 3 + [7, 2], [IGNORED] * 2 + [2, IGNORED, IGNORED]]


def test_token_loss_is_the_mean_over_labels():
    logits, labels = torch.randn(1, 4, 5), torch.tensor([[IGNORED, IGNORED, 3, 1]])
    loss = token_loss(logits[:, :-1], labels[:, 1:])
    torch.testing.assert_close(loss.values[0], F.cross_entropy(logits[0, 1:3], torch.tensor([3, 1])))
    assert loss.counts.tolist() == [2]


def test_token_loss_is_that_of_transformers(tokenizer_root: Path, batch: Batch):
    module = make_module(tokenizer_root)
    pairs = [
        encode(module.tokenizer, format_prompt(w), z)
        for w, z in zip(batch["instruction"], batch["response"], strict=True)
    ]
    ids, mask, labels = padded_rows(pairs, module.tokenizer.pad_token_id)
    output = module.language_model(input_ids=ids, attention_mask=mask, labels=labels)
    loss = token_loss(output.logits[:, :-1], labels[:, 1:])
    torch.testing.assert_close(loss.sums.sum() / loss.counts.sum(), output.loss)


def test_counts_are_answer_tokens_with_the_end(tokenizer_root: Path, batch: Batch):
    module = make_module(tokenizer_root)
    expected = [len(encode(module.tokenizer, "", text)[1]) for text in batch["response"]]
    assert counts_of(module, batch, Draws(0, batch["position"]))["response"].tolist() == expected
    batch["has_response"][0] = False
    assert counts_of(module, batch, Draws(0, batch["position"]))["response"][0] == 0


def test_facts_count_where_they_are_drawn_only(tokenizer_root: Path, batch: Batch):
    draws = Draws(0, batch["position"])
    some = counts_of(make_module(tokenizer_root, fact_share=0.5), batch, draws)["fact"] > 0
    assert some.tolist() == draws.bernoulli("fact", 0.5).tolist()
    assert some.any() and not some.all()
    module = make_module(tokenizer_root, fact_share=0.5)
    assert (values_of(module, batch, draws)["fact"] > 0).tolist() == some.tolist()
    assert not values_of(make_module(tokenizer_root, fact_share=0.0), batch, draws)["fact"].any()


def test_who_sees_nothing_learns_the_blind_edit(tokenizer_root: Path, batch: Batch):
    batch["expressive"] = ["make the red square blue"] * 8
    batch["has_expressive"] = torch.ones(8, dtype=torch.bool)
    batch["metadata"] = [{"expressive_blind": "make the odd one out blue"}] + [{}] * 7
    seeing, blind = (make_module(tokenizer_root, caption_dropout=share) for share in (0.0, 1.0))
    counts = [counts_of(module, batch, Draws(0, batch["position"]))["expressive"] for module in (seeing, blind)]
    texts = batch["expressive"][0], batch["metadata"][0]["expressive_blind"]
    lengths = [len(encode(seeing.tokenizer, "", text)[1]) for text in texts]
    assert [counts[0][0].item(), counts[1][0].item()] == lengths
    assert torch.equal(counts[0][1:], counts[1][1:])


@pytest.fixture
def world() -> Batch:
    """Four samples whose scenes are known; texts alone."""
    world = World(level="plain", pictures=False)
    return collate([draw_from(world, "train", index) for index in range(4)], size=(1, 1))


def test_scenes_count_where_they_are_known_and_described(tokenizer_root: Path, batch: Batch, world: Batch):
    module, draws = make_module(tokenizer_root, caption_dropout=0.0), Draws(0, world["position"])
    assert not any(counts_of(module, batch, Draws(0, batch["position"]))[name].any() for name in SCENES)
    del world["metadata"][0]["target_scene"]
    world["has_source_caption"][1] = False
    counts = counts_of(module, world, draws)
    assert counts["dense_source"].tolist() == [1, 0, 1, 1]
    assert counts["dense_target"].tolist() == [0, 0, 1, 1]
    blind = make_module(tokenizer_root, caption_dropout=1.0)
    assert not any(counts_of(blind, world, draws)[name].any() for name in SCENES)


def test_readers_read_the_prompt_alone(tokenizer_root: Path, world: Batch):
    module, draws = make_module(tokenizer_root, caption_dropout=0.0), Draws(0, world["position"])
    before = values_of(module, world, draws)
    world["response"] = [f"{text} {text}" for text in world["response"]]
    after = values_of(module, world, draws)
    assert all((before[name] > 0).all() for name in SCENES)
    torch.testing.assert_close(*([found[name] for name in SCENES] for found in (before, after)))
    assert not torch.equal(before["response"], after["response"])
    world["metadata"][0]["source_scene"]["things"] = []
    read = values_of(module, world, draws)
    assert read["dense_source"][0] != after["dense_source"][0]
    assert torch.equal(read["dense_target"], after["dense_target"])


def test_a_reader_teaches_the_layers_up_to_its_own(tokenizer_root: Path, world: Batch):
    size = replace(SIZE, num_hidden_layers=3)
    module = LanguageModule(OptimizerConfig(), {"dense_source": 1.0}, str(tokenizer_root / "llama"), size)
    values_of(module, world, Draws(0, world["position"]))["dense_source"].sum().backward()
    taught = [bool(layer.mlp.up_proj.weight.grad.any()) for layer in module.language_model.model.layers]
    assert taught == [True, False, False]


def test_a_fact_is_a_beginning_and_its_end():
    assert ("grass is", "green") in completions()
    assert ("a tent looks like a", "triangle") in completions()
    assert ("the sun sets on a map", "on the left") in completions()


def test_what_a_phrase_means_is_learnt_by_itself():
    assert ("the colour of grass is", "green") in completions()
    assert ("a shape like a tent is", "a triangle") in completions()
    assert ("where the sun sets on a map is", "on the left") in completions()
    assert ("a moderate size is", "medium") in completions()
    assert all(beginning and end for beginning, end in completions())


def test_training_starts_from_a_folder(tokenizer_root: Path, tmp_path: Path):
    first = make_module(tokenizer_root, seed=1)
    export_run("lm", first, tmp_path)
    second = make_module(tokenizer_root, start=str(tmp_path / "llama"))
    for mine, theirs in zip(second.language_model.parameters(), first.language_model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-3, rtol=1e-3)


def test_caption_dropout_hides_the_caption(tokenizer_root: Path, batch: Batch):
    hiding, draws = make_module(tokenizer_root, caption_dropout=1.0), Draws(0, batch["position"])
    before = values_of(hiding, batch, draws)["response"]
    batch["source_caption"] = ["something else"] * 8
    torch.testing.assert_close(values_of(hiding, batch, draws)["response"], before)


def test_the_caption_reaches_the_model(tokenizer_root: Path, batch: Batch):
    showing, draws = make_module(tokenizer_root, caption_dropout=0.0), Draws(0, batch["position"])
    before = values_of(showing, batch, draws)["response"]
    batch["source_caption"] = ["something else"] * 8
    assert (values_of(showing, batch, draws)["response"] != before).all()


def test_untrained_loss_is_near_a_uniform_guess(tokenizer_root: Path, batch: Batch):
    module = make_module(tokenizer_root)
    value = values_of(module, batch, Draws(0, batch["position"]))["response"].mean().item()
    assert value == pytest.approx(math.log(len(module.tokenizer)), abs=0.3)


def test_export_loads_and_gives_the_same_logits(tokenizer_root: Path, tmp_path: Path):
    module = make_module(tokenizer_root)
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()
    export_run("lm", module, tmp_path)
    model, tokenizer = load_llm(tmp_path / "llama"), load_llm_tokenizer(tmp_path / "llama")
    ids = tokenizer(caption("red", "left"), return_tensors="pt").input_ids
    assert ids.tolist() == [module.tokenizer(caption("red", "left")).input_ids]
    torch.testing.assert_close(model(ids).logits, module.language_model(ids).logits)


def test_export_says_the_prompt_format(tokenizer_root: Path, tmp_path: Path):
    export_run("lm", make_module(tokenizer_root), tmp_path)
    template = (tmp_path / "llama" / "prompt_template.txt").read_text(encoding="utf-8").rstrip("\n")
    assert template.format(image="a box", instruction="Go.") == format_prompt("Go.", "a box")


def test_left_padding_does_not_change_what_is_generated(tokenizer_root: Path):
    model, pad = make_module(tokenizer_root).language_model, 2
    alone = generate_left_padded(model, [[1, 20, 21]], pad)
    padded = generate_left_padded(model, [[1, 20, 21], [1, 30, 31, 32, 33, 34, 35]], pad)
    shortest = min(alone.shape[1], padded.shape[1])
    assert padded[0, :shortest].tolist() == alone[0, :shortest].tolist()


def test_a_run_of_another_part_is_refused(tokenizer_root: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="export clip: expected a run of ClipModule, found LanguageModule"):
        export_run("clip", make_module(tokenizer_root), tmp_path)
