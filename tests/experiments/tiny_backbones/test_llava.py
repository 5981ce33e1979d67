"""The tiny LLaVA: MGIE's prompt, what sees and what does not, what readers teach, and its exported folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.schema import Batch, collate
from datamodules.tinyworld.edit_grammar import leads_to, names
from datamodules.tinyworld.sample import make_sample
from experiments.tiny_backbones.clip_model import normalise_images
from experiments.tiny_backbones.export import export_run
from experiments.tiny_backbones.llava import ANSWERS, DENSE, REFERENTS, LlavaModule
from experiments.tiny_backbones.llava_model import LlavaSize
from experiments.tiny_backbones.score_llava import CONDITIONS, open_writer, score_llava, verdict
from mmig.language.sequences import VISUAL_TOKEN
from mmig.training.muon import Muon
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import term_means, total_loss
from tests.experiments.tiny_backbones.toy import picture
from tests.terms import counts_of, values_of

SIZE = LlavaSize(
    patch_size=16,
    vision_width=32,
    vision_layers=3,
    vision_feed_forward=64,
    text_width=32,
    text_layers=3,
    text_feed_forward=64,
    head_width=16,
)
TERMS = (*ANSWERS, *DENSE)
EDIT = "Make the square red."


def make_module(root: Path, terms: Sequence[str] = TERMS, **options: Any) -> LlavaModule:
    return LlavaModule(OptimizerConfig(), dict.fromkeys(terms, 1.0), str(root / "llama"), SIZE, **options).eval()


def halved(module: LlavaModule) -> LlavaModule:
    """With weights that half precision keeps."""
    for parameter in module.parameters():
        parameter.data = parameter.data.half().float()
    return module


@pytest.fixture
def world() -> Batch:
    """Six samples whose scenes are known; three of them visual."""
    samples = [make_sample(0, "train", index, level="plain", kinds=("literal",)) for index in range(3)]
    return collate(
        [*samples, *(make_sample(0, "train", index, level="plain", kinds=("visual",)) for index in range(3))]
    )


def test_every_term_has_values_where_it_counts(tokenizer_root: Path, world: Batch):
    module, draws = make_module(tokenizer_root, blind_share=0.5, fact_share=0.5), Draws(0, world["position"])
    counts, values = counts_of(module, world, draws), values_of(module, world, draws)
    for name in ("expressive", "blind", "fact", "dense_source", "dense_target"):
        assert torch.equal(values[name] > 0, counts[name] > 0)
    assert torch.equal(counts["blind"] == 0, counts["expressive"] > 0)
    assert (values["dense_patches"] > 0).all() and (counts["dense_patches"] == 1).all()


def test_who_sees_nothing_learns_the_blind_edit(tokenizer_root: Path, world: Batch):
    seeing, blind = (make_module(tokenizer_root, blind_share=share) for share in (0.0, 1.0))
    hidden = [False] * 6, [True] * 6
    whole, bare = seeing._questions(world, hidden[0]), blind._questions(world, hidden[1])
    decode = seeing.tokenizer.decode
    assert [decode(answer[:-1]) for _, answer in whole] == world["expressive"]
    unseen = [
        data.get("expressive_blind", text) for data, text in zip(world["metadata"], world["expressive"], strict=True)
    ]
    assert [decode(answer[:-1]) for _, answer in bare] == unseen != world["expressive"]
    assert all(prompt.count(VISUAL_TOKEN) == SIZE.num_patches for prompt, _ in whole)
    assert not any(VISUAL_TOKEN in prompt for prompt, _ in bare)


def test_the_picture_reaches_what_sees_and_nothing_else(tokenizer_root: Path, world: Batch):
    module, draws = make_module(tokenizer_root, blind_share=0.5), Draws(0, world["position"])
    world["source"].requires_grad_(True)
    values = values_of(module, world, draws)
    shown = counts_of(module, world, draws)["expressive"] > 0
    assert shown.any() and not shown.all()
    for name in ("expressive", "dense_source", "dense_target"):
        (gradient,) = torch.autograd.grad(values[name].sum(), world["source"], retain_graph=True)
        assert torch.equal(gradient.abs().amax((1, 2, 3)) > 0, shown)
    (gradient,) = torch.autograd.grad(values["blind"].sum(), world["source"], allow_unused=True)
    assert gradient is None


def test_a_sample_without_picture_is_asked_blind(tokenizer_root: Path, world: Batch):
    module, draws = make_module(tokenizer_root, blind_share=0.0), Draws(0, world["position"])
    world["has_source"][1] = False
    counts = counts_of(module, world, draws)
    assert counts["expressive"][1] == 0 < counts["blind"][1]
    assert all(counts[name].tolist() == [1, 0, 1, 1, 1, 1] for name in DENSE)


def test_readers_read_the_prompt_alone(tokenizer_root: Path, world: Batch):
    module, draws = make_module(tokenizer_root, blind_share=0.0), Draws(0, world["position"])
    before = values_of(module, world, draws)
    world["expressive"] = [f"{text} {text}" for text in world["expressive"]]
    after = values_of(module, world, draws)
    torch.testing.assert_close(*([found[name] for name in DENSE] for found in (before, after)))
    assert not torch.equal(before["expressive"], after["expressive"])
    world["metadata"][0]["target_scene"]["things"] = []
    read = values_of(module, world, draws)
    assert read["dense_target"][0] != after["dense_target"][0]
    assert torch.equal(read["dense_source"], after["dense_source"])


def test_a_reader_teaches_the_layers_up_to_its_own(tokenizer_root: Path, world: Batch):
    module = make_module(tokenizer_root, blind_share=0.0)

    def taught(term: str) -> set[str]:
        module.zero_grad()
        values_of(module, world, Draws(0, world["position"]))[term].sum().backward()
        named = module.llava.model.language_model.layers.named_parameters()
        return {name.split(".")[0] for name, part in named if part.grad is not None and part.grad.any()}

    assert [taught(term) for term in DENSE] == [set(), {"0"}, {"0", "1"}]
    assert taught("expressive") == {"0", "1", "2"}


def test_the_loss_is_that_of_transformers(tokenizer_root: Path, world: Batch):
    module = make_module(tokenizer_root, blind_share=0.0)
    found = values_of(module, world, Draws(0, world["position"]))["expressive"]
    for row, (prompt, answer) in enumerate(module._questions(world, [False] * 6)):
        image = module.llava.config.image_token_id
        ids = torch.tensor([[image if number == VISUAL_TOKEN else number for number in prompt] + answer])
        labels = torch.tensor([[-100] * len(prompt) + answer])
        pixels = normalise_images(world["source"][row : row + 1])
        expected = module.llava(input_ids=ids, pixel_values=pixels, labels=labels).loss
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_steps_on_one_batch_lower_every_loss(tokenizer_root: Path, world: Batch):
    module, draws = make_module(tokenizer_root, blind_share=0.5, fact_share=1.0), Draws(0, world["position"])
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    groups = [[part for part in parameters if (part.ndim > 1) is matrix] for matrix in (True, False)]
    optimizer = Muon([{"params": group, "weight_decay": 0.0} for group in groups], lr=3e-3, betas=(0.9, 0.98))

    def step() -> torch.Tensor:
        """Means of the terms, before it."""
        counts, values = (
            torch.stack([found(module, world, draws)[name] for name in TERMS], dim=1)
            for found in (counts_of, values_of)
        )
        sums, sizes = (values * counts).sum(0), counts.sum(0)
        optimizer.zero_grad()
        total_loss(sums, sizes, torch.ones(len(TERMS))).backward()
        optimizer.step()
        return term_means(sums, sizes).detach()

    losses = [step() for _ in range(15)]
    assert (losses[-1] < 0.95 * losses[0]).all()


def test_referents_are_read_from_the_patches_where_they_have_a_weight(tokenizer_root: Path, world: Batch):
    assert make_module(tokenizer_root).referent_reader is None
    module, draws = make_module(tokenizer_root, (*TERMS, REFERENTS)), Draws(0, world["position"])
    world["metadata"][1]["source_scene"] = None
    assert counts_of(module, world, draws)[REFERENTS].tolist() == [1, 0, 1, 1, 1, 1]
    values_of(module, world, draws)[REFERENTS].sum().backward()
    taught = {name.split(".")[1] for name, part in module.llava.named_parameters() if part.grad is not None}
    assert taught == {"vision_tower"}


def test_a_checkpoint_holds_every_weight_tied_ones_too(tokenizer_root: Path):
    module = make_module(tokenizer_root)
    assert module.stored_names() == set(module.state_dict())


def test_export_opens_in_transformers_and_writes_the_same(tokenizer_root: Path, tmp_path: Path, batch: Batch):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    module = halved(make_module(tokenizer_root))
    (folder,) = export_run("llava", module, tmp_path)
    model, processor = (
        AutoModelForImageTextToText.from_pretrained(folder).float(),
        AutoProcessor.from_pretrained(folder),
    )
    question = f"what will this image be like if '{EDIT}'"
    content = [{"type": "text", "text": question}, {"type": "image"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(images=[[picture("red", "left")]], text=[text], return_tensors="pt")
    torch.testing.assert_close(inputs.pixel_values, normalise_images(batch["source"][:1]), atol=1e-5, rtol=0)
    writer = open_writer(folder, sees=True)
    (prompt,) = writer.prompts([EDIT])
    image = model.config.image_token_id
    assert inputs.input_ids[0].tolist() == [image if number == VISUAL_TOKEN else number for number in prompt]
    theirs = model.generate(**inputs, do_sample=False, max_new_tokens=6)[0, len(prompt) :].tolist()
    ours = writer.write([EDIT], writer.visual_tokens(batch["source"][:1]), 6).ids[0]
    assert ours and theirs[: len(ours)] == ours


def test_the_chat_template_without_a_picture_is_the_prompt_of_lgie(tokenizer_root: Path, tmp_path: Path):
    from transformers import AutoProcessor

    (folder,) = export_run("llava", make_module(tokenizer_root), tmp_path)
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "text", "text": f"what will this image be like if '{EDIT}'"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert processor.tokenizer(text).input_ids == open_writer(folder, sees=False).prompts([EDIT])[0]


def test_a_picture_in_front_is_asked_about_as_llava_is(tokenizer_root: Path, tmp_path: Path):
    from transformers import AutoProcessor

    (folder,) = export_run("llava", make_module(tokenizer_root), tmp_path)
    content = [{"type": "image"}, {"type": "text", "text": EDIT}]
    conversation = [{"role": "user", "content": content}]
    text = AutoProcessor.from_pretrained(folder).apply_chat_template(conversation, add_generation_prompt=True)
    assert text == f"USER: <image>\n{EDIT} ASSISTANT:"


def test_a_text_is_judged_by_the_edit_and_by_the_object_that_it_names():
    sample = make_sample(0, "train", 0, level="plain", kinds=("visual",))
    texts = sample["expressive"], sample["metadata"]["expressive_blind"], "remove it"
    found = [verdict(text, sample["metadata"], leads_to, names) for text in texts]
    assert found == [(True, True), (True, False), (False, False)]
    samples = (make_sample(0, "train", index, level="plain", kinds=("literal",)) for index in range(20))
    added = next(sample for sample in samples if sample["edit_type"] == "add")
    assert verdict(added["expressive"], added["metadata"], leads_to, names) == (True, None)


def test_scores_are_shares_by_what_is_seen(tokenizer_root: Path, tmp_path: Path, world: Batch):
    (folder,) = export_run("llava", make_module(tokenizer_root), tmp_path)
    found = score_llava(folder, [world], leads_to, names)
    assert (found["samples/literal"], found["samples/visual"]) == (3, 3)
    things = [len(data["source_scene"]["things"]) for data in world["metadata"][3:]]
    assert found["chance/visual"] == pytest.approx(sum(1 / count for count in things) / 3)
    for condition in CONDITIONS:  # nothing was learnt
        assert [found[f"{name}{condition}/visual"] for name in ("", "led/", "named/")] == [0, 0, 0]
