"""MGIE on multimodal LLMs that see otherwise than LLaVA does: Qwen2-VL, Qwen2.5-VL, Qwen3-VL."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from mmig.backbones.mllm import load_mllm, load_mllm_tokenizer, pixel_statistics
from mmig.backbones.mllm_vision import LlavaVision
from mmig.backbones.parts import BackboneError
from mmig.language.sequences import VISUAL_TOKEN
from mmig.methods.mgie.export import open_editor, save_mgie
from mmig.methods.mgie.module import MGIEModule
from mmig.methods.mgie.pipeline import MGIESampling
from mmig.methods.mgie.writer import PROMPT, InstructionWriter, WriterConfig
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from mmig.training.terms import stacked, total_loss
from tests.mmig.methods.mgie.support import EXPRESSIVE, HEAD, batch, folders
from tests.tiny_llava import NUM_PATCHES
from tests.tiny_qwen_vl import BEHIND, END, IMAGE, KINDS, PATCH, START, TURN, build_qwen_vl

SIZE = 4 * PATCH
QWEN_PROMPT = (
    f"{TURN}user\nwhat will this image be like if '{{instruction}}'\n{START}{{image}}{BEHIND}{END}\n{TURN}assistant\n"
)
INSTRUCTIONS = ["make it blue", "remove the largest shape, please"]
MODELS = ("llava", *KINDS)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {"llava": folders()[1]} | {kind: build_qwen_vl(root / kind, kind, spare=20) for kind in KINDS}


def language(kind: str, **settings: Any) -> WriterConfig:
    own = {} if kind == "llava" else {"prompt": QWEN_PROMPT, "image_size": SIZE}
    return WriterConfig(**own | {"max_length": 256} | settings)


def writer(folder: Path, kind: str, **settings: Any) -> InstructionWriter:
    """The language model alone, its weights large enough that texts, pictures and places matter."""
    llm = load_mllm(folder)
    with torch.no_grad():
        for parameter in llm.parameters():
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0)
    return InstructionWriter(llm, load_mllm_tokenizer(folder), pixel_statistics(folder), language(kind, **settings))


def pictures(model: InstructionWriter, count: int = 2) -> tuple[torch.Tensor, list[Image.Image]]:
    """The same random pictures as a batch [B,3,S,S] in [-1,1] and as files, in the size that the model sees."""
    side = model.vision.image_size
    pixels = torch.randint(
        0, 256, (count, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3)
    )
    return pixels.permute(0, 3, 1, 2) / 127.5 - 1, [Image.fromarray(picture.numpy()) for picture in pixels]


def through_the_processor(model: InstructionWriter, folder: Path, instruction: str, picture: Image.Image) -> Any:
    """What the model's own processor makes of the prompt and the picture."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    mark = "<image>" if model.llm.config.model_type == "llava" else IMAGE
    text = model.config.prompt.format(instruction=instruction, image=mark)
    return processor(text=[text], images=[picture], return_tensors="pt")


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_hidden_states_are_those_of_the_models_own_forward(models: dict[str, Path], kind: str) -> None:
    model = writer(models[kind], kind)
    images, files = pictures(model)
    encoded = model.encode(INSTRUCTIONS, EXPRESSIVE[:2])
    loss, states = model(encoded, model.visual_tokens(images))
    for row, (prompt, answer) in enumerate(zip(encoded.prompts, encoded.answers, strict=True)):
        inputs = through_the_processor(model, models[kind], INSTRUCTIONS[row], files[row])
        image_id = model.llm.config.image_token_id
        assert [image_id if number == VISUAL_TOKEN else number for number in prompt] == inputs["input_ids"][0].tolist()
        for name, kind_of_rest in (
            ("input_ids", torch.tensor([answer])),
            ("attention_mask", torch.ones(1, len(answer))),
        ):
            inputs[name] = torch.cat([inputs[name], kind_of_rest.to(inputs[name])], dim=1)
        if "mm_token_type_ids" in inputs:
            rest = torch.zeros(1, len(answer)).to(inputs["mm_token_type_ids"])
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], rest], dim=1)
        theirs = model.llm(**inputs, output_hidden_states=True)
        first = len(prompt) + len(answer) - 8 - 1  # the index of [IMG0] minus one
        torch.testing.assert_close(states[row], theirs.hidden_states[-1][0, first : first + 8], rtol=1e-5, atol=1e-5)
        said = theirs.logits[0, len(prompt) - 1 : -1].log_softmax(dim=-1)
        nll = -said.gather(1, torch.tensor(answer)[:, None]).mean()
        torch.testing.assert_close(loss.values[row], nll, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("sees", [True, False], ids=["sees", "blind"])
def test_new_rows_have_the_gradient_of_one_whole_forward(models: dict[str, Path], kind: str, sees: bool) -> None:
    """Where only the [IMG] tokens train, what stands before them runs without a graph."""
    model = writer(models[kind], kind, rows="new")
    encoded = model.encode(INSTRUCTIONS, [EXPRESSIVE[0], EXPRESSIVE[1] * 2])  # of different lengths
    visual = model.visual_tokens(pictures(model)[0]) if sees else None
    rows = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def of_one_batch() -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        loss, states = model(encoded, visual)
        weights = torch.randn(states.shape, generator=torch.Generator().manual_seed(0))
        return loss.values, states, list(torch.autograd.grad(loss.values.sum() + (states * weights).sum(), rows))

    loss, states, gradients = of_one_batch()
    model.config.gradient_checkpointing = True  # the whole forward with its graph, which the model is to recompute
    whole = of_one_batch()
    torch.testing.assert_close((loss, states), whole[:2], rtol=1e-5, atol=1e-5)
    for found, expected in zip(gradients, whole[2], strict=True):
        assert expected.any()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_what_it_writes_is_what_the_model_writes_by_itself(models: dict[str, Path], kind: str) -> None:
    model = writer(models[kind], kind)
    images, files = pictures(model)
    written = model.write(INSTRUCTIONS, model.visual_tokens(images), 8)  # prompts of two lengths, padded on the left
    for row, instruction in enumerate(INSTRUCTIONS):
        inputs = through_the_processor(model, models[kind], instruction, files[row])
        model.llm.generation_config.eos_token_id = [model.tokenizer.eos_token_id, model.image_ids[0]]
        theirs = model.llm.generate(**inputs, do_sample=False, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
        assert written.ids[row] == theirs.tolist()[: len(written.ids[row])] and len(written.ids[row]) > 2


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_a_picture_matters_and_so_does_where_in_it_something_is(models: dict[str, Path], kind: str) -> None:
    model = writer(models[kind], kind)
    images, _ = pictures(model)
    encoded = model.encode(INSTRUCTIONS, EXPRESSIVE[:2])
    before = model.states(encoded, model.visual_tokens(images))
    for other in (images.flip(0), images.flip(2), images.flip(3)):
        assert not torch.allclose(before, model.states(encoded, model.visual_tokens(other)), atol=1e-3)


def module(folder: Path, kind: str, **settings: Any) -> MGIEModule:
    diffusion = str(folders()[0])
    torch.manual_seed(0)
    optimizer = OptimizerConfig(weight_decay=0.0)
    given = {"head": HEAD, "language": language(kind), "sampling": MGIESampling(num_steps=2, max_new_tokens=4)}
    return MGIEModule(optimizer, diffusion, diffusion, str(folder), **given | settings)


@pytest.mark.parametrize("rows", ["all", "new"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_both_losses(models: dict[str, Path], kind: str, rows: Any) -> None:
    model, data = module(models[kind], kind, language=language(kind, rows=rows)), batch(2)
    draws, weights = Draws(0, data["position"]), torch.tensor(list(model.loss_weights.values()))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
    seen = []
    for _ in range(6):
        values, counts = stacked(model.losses(data, draws))
        optimizer.zero_grad()
        total_loss((values * counts).sum(dim=0), counts.sum(dim=0), weights).backward()
        optimizer.step()
        seen.append(values.detach().mean(dim=0))
    assert (seen[-1] < seen[0]).all()
    trained = {name for name, parameter in model.writer.named_parameters() if parameter.requires_grad}
    whole = {"llm.model.language_model.embed_tokens.weight", "llm.lm_head.weight"}
    assert trained == (whole if rows == "all" else {"tokens.rows", "tokens.head_rows"})


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_and_recomputed_activations_train_too(models: dict[str, Path], kind: str) -> None:
    own = language(kind, rows="new", dtype="bfloat16", gradient_checkpointing=True)
    model, exact, data = module(models[kind], kind, language=own), module(models[kind], kind), batch(2)
    found, expected = (stacked(each.losses(data, Draws(0, data["position"])))[0] for each in (model, exact))
    torch.testing.assert_close(found, expected, rtol=0.05, atol=0.05)
    found.sum().backward()
    for rows in (model.writer.tokens.rows, model.writer.tokens.head_rows):
        assert rows.grad is not None and rows.grad.isfinite().all() and rows.grad.any()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_its_export_opened_again_edits_alike(models: dict[str, Path], kind: str, tmp_path: Path) -> None:
    model, data = module(models[kind], kind), batch(2)
    for parameter in model.writer.tokens._tables[0].weight, model.writer.tokens._tables[1].weight:
        parameter[model.writer.image_ids] += torch.randn(8, 16)
    pipeline = model.make_pipeline()
    save_mgie(pipeline, tmp_path / "mgie")
    again = open_editor(str(tmp_path / "mgie"), language=model.writer.config, sampling=pipeline.sampling)
    seeds = [[torch.Generator().manual_seed(number) for number in (1, 2)] for _ in range(2)]
    first, second = (
        editor.edit(data["source"], INSTRUCTIONS, own) for editor, own in zip((pipeline, again), seeds, strict=True)
    )
    assert first.texts == second.texts
    torch.testing.assert_close(first.images, second.images, atol=1e-4, rtol=1e-4)
    assert f"image_size: {SIZE}" in (tmp_path / "mgie/editor.yaml").read_text()


@pytest.mark.parametrize(("tied", "spare"), [(False, 0), (True, 0), (True, 20), (False, 20)])
@torch.no_grad()
def test_new_tokens_take_spare_rows_and_else_the_tables_grow(tied: bool, spare: int, tmp_path: Path) -> None:
    model = writer(build_qwen_vl(tmp_path / "qwen", tied=tied, spare=spare), "Qwen2")
    rows = model.llm.get_input_embeddings().weight
    known = len(model.tokenizer) - 8
    assert model.image_ids == list(range(known, known + 8)) and len(rows) == known + max(spare, 8)
    assert model.tokens.tied == tied == (model.llm.get_output_embeddings().weight is rows)
    torch.testing.assert_close(rows[known:][:8], rows[:known].mean(dim=0).expand(8, -1))
    assert model.llm.config.get_text_config().vocab_size == len(rows)


@pytest.mark.parametrize(
    ("kind", "settings", "words"),
    [
        (
            "Qwen2",
            {"image_size": None},
            r"^language\.image_size: qwen2_vl takes pictures of any size in steps of 28 pixel",
        ),
        ("Qwen3", {"image_size": 60}, r"qwen3_vl .* expected a multiple of 28, such as 448, found 60$"),
        ("Qwen2_5_", {"image_size": 0}, r"qwen2_5_vl .* found 0$"),
        (
            "llava",
            {"image_size": 56},
            r"^language\.image_size: the image tower takes 64 pixels, found 56; leave it out$",
        ),
        (
            "Qwen2",
            {"max_length": 40},
            r"^language\.max_length: the prompt without an instruction and the \[IMG\] tokens take",
        ),
        ("Qwen2", {"image_size": 64 * 28}, r"language\.max_length: .* take 4\d\d\d tokens, expected more, found 256$"),
        ("Qwen2", {"max_length": 513}, r"^language\.max_length: expected at most the 512 positions"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_one_line(
    models: dict[str, Path], kind: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        writer(models[kind], kind, **settings)
    assert "\n" not in str(caught.value)


def test_an_instruction_that_leaves_no_room_is_refused_in_a_line(models: dict[str, Path]) -> None:
    model = writer(models["Qwen2"], "Qwen2")
    with pytest.raises(ValueError, match=r"^instruction 'very very .*fewer than 512 in all; shorten it$"):
        model.write(["very " * 500], torch.zeros(1, 4, 16), 4)


def test_llava_has_its_towers_size_and_another_model_is_refused(models: dict[str, Path], tmp_path: Path) -> None:
    from tests.tiny_fixtures import build_llama

    vision = LlavaVision(load_mllm(models["llava"]))
    assert (vision.image_size, vision.num_tokens) == (64, NUM_PATCHES)
    assert writer(models["llava"], "llava").config.prompt == PROMPT
    with pytest.raises(
        BackboneError, match=r"model_type llava or qwen2_vl or qwen2_5_vl or qwen3_vl, found 'llama'; give"
    ):
        load_mllm(build_llama(tmp_path / "llama"))
