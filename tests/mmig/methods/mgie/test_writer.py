"""What MGIE's language model reads and writes, and which states guide."""

import itertools
from typing import Any

import pytest
import torch

from mmig.backbones.parts import BackboneError
from mmig.language.sequences import VISUAL_TOKEN
from mmig.methods.mgie.writer import Encoded, InstructionWriter, WriterConfig
from tests.mmig.methods.mgie.support import EXPRESSIVE, batch, folders, writer
from tests.tiny_fixtures import build_llama
from tests.tiny_llava import CONTEXT, NUM_PATCHES

INSTRUCTIONS = ["make it blue", "remove the largest shape", "night", "a star, please"]


def by_transformers(model: InstructionWriter, prompt: list[int], answer: list[int], image: torch.Tensor) -> Any:
    """LLaVA's own forward of one sample: its placeholders, its image tower, its shift of labels."""
    token = model.llm.config.image_token_id
    ids = torch.tensor([[token if number == VISUAL_TOKEN else number for number in prompt] + answer])
    labels = torch.tensor([[-100] * len(prompt) + answer])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in model.statistics)
    pixels = ((image[None] + 1) / 2 - mean) / std
    return model.llm(input_ids=ids, pixel_values=pixels, labels=labels, output_hidden_states=True)


def test_the_prompt_asks_with_the_picture_behind_the_instruction() -> None:
    model = writer()
    (ids,) = model.prompts(["make it blue"])
    assert ids.count(VISUAL_TOKEN) == NUM_PATCHES
    before = model.tokenizer.decode(ids[: ids.index(VISUAL_TOKEN)])
    after = model.tokenizer.decode(ids[ids.index(VISUAL_TOKEN) + NUM_PATCHES :])
    assert before.endswith("what will this image be like if 'make it blue'\n")
    assert after.strip() == "ASSISTANT:"


def test_without_eyes_it_is_the_same_without_the_pictures_place() -> None:
    model = writer(sees=False)
    (ids,) = model.prompts(["make it blue"])
    assert VISUAL_TOKEN not in ids
    assert model.tokenizer.decode(ids).endswith("what will this image be like if 'make it blue' ASSISTANT:")


@torch.no_grad()
def test_loss_and_states_are_those_of_transformers() -> None:
    model, data = writer(), batch()
    encoded = model.encode(INSTRUCTIONS, EXPRESSIVE)
    loss, states = model(encoded, model.visual_tokens(data["source"]))
    for row, (prompt, answer) in enumerate(zip(encoded.prompts, encoded.answers, strict=True)):
        theirs = by_transformers(model, prompt, answer, data["source"][row])
        torch.testing.assert_close(loss.values[row], theirs.loss, rtol=1e-4, atol=1e-5)
        first = len(prompt) + len(answer) - 8 - 1  # the index of [IMG0] minus one
        torch.testing.assert_close(states[row], theirs.hidden_states[-1][0, first : first + 8], rtol=1e-4, atol=1e-4)
    assert loss.counts.tolist() == [len(answer) for answer in encoded.answers]


@torch.no_grad()
def test_a_token_more_moves_the_states_by_one() -> None:
    model = writer(sees=False)
    (prompt,), (text,) = model.prompts(["make it blue"]), model.text_ids([EXPRESSIVE[0]])
    for extra in ([], [50]):
        answer = extra + text + model.image_ids
        encoded = Encoded([prompt], [answer], torch.ones(1, dtype=torch.bool))
        hidden = model.llm.model.language_model(input_ids=torch.tensor([prompt + answer])).last_hidden_state
        first = len(prompt) + len(extra) + len(text) - 1
        torch.testing.assert_close(model.states(encoded, None)[0], hidden[0, first : first + 8], rtol=1e-4, atol=1e-4)


def test_image_tokens_that_a_text_spells_out_are_left_out() -> None:
    model = writer()
    encoded = model.encode(["make [IMG0] it blue"], ["a [IMG3] star"])
    assert not set(model.image_ids) & set(encoded.prompts[0])
    assert [number for number in encoded.answers[0] if number in model.image_ids] == model.image_ids


def test_what_is_too_long_is_not_whole_and_leaves_nothing_behind() -> None:
    model = writer(max_length=90)
    encoded = model.encode(["make it blue", "make it blue"], [EXPRESSIVE[0], "very " * 60])
    assert encoded.whole.tolist() == [True, False]
    assert encoded.answers[1] == model.image_ids and encoded.prompts[1] == model.prompts([""])[0]


@torch.no_grad()
def test_what_it_writes_is_the_argmax_and_does_not_depend_on_the_batch() -> None:
    model, data = writer(), batch()
    visual = model.visual_tokens(data["source"])
    written = model.write(INSTRUCTIONS, visual, 6)
    for row, ids in enumerate(written.ids):
        alone = model.write(INSTRUCTIONS[row : row + 1], visual[row : row + 1], 6)
        assert (alone.ids[0], alone.forced[0]) == (ids, written.forced[row])
        (prompt,) = model.prompts(INSTRUCTIONS[row : row + 1])
        logits = by_transformers(model, prompt, ids, data["source"][row]).logits[0]
        assert ids == logits[len(prompt) - 1 : len(prompt) - 1 + len(ids)].argmax(dim=-1).tolist()


@pytest.mark.parametrize("rows", ["all", "new"])
@torch.no_grad()
def test_a_text_ends_at_its_first_image_token_or_is_forced(rows: Any) -> None:
    model = writer(sees=False, rows=rows)
    free = model.write(["make it blue"], None, 6)
    assert free.forced == [True] and len(free.ids[0]) == 6
    (prompt,) = model.prompts(["make it blue"])
    last = model.llm.model.language_model(input_ids=torch.tensor([prompt])).last_hidden_state[0, -1]
    model.tokens.output_parameter()[model.image_ids[0] if rows == "all" else 0] = 10 * last
    willing = model.write(["make it blue"], None, 6)
    assert (willing.ids, willing.forced) == ([[]], [False])


def test_no_pair_of_tokens_comes_twice_where_it_may_not() -> None:
    model = writer(sees=False)
    (ids,) = model.write(["make it blue"], None, 40, no_repeat_ngram=2).ids
    pairs = list(itertools.pairwise(ids))
    assert len(set(pairs)) == len(pairs)


def test_an_instruction_longer_than_the_context_is_refused_in_a_line() -> None:
    with pytest.raises(ValueError, match=f"instruction 'very very .*fewer than {CONTEXT} in all; shorten it$"):
        writer().write(["very " * 300], torch.zeros(1, NUM_PATCHES, 16), 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_image_tokens": 0}, "language.num_image_tokens: expected at least 1, found 0"),
        ({"rows": "some"}, "language.rows: expected 'all' or 'new', found 'some'"),
        ({"prompt": "what if {instruction}"}, "language.prompt: expected {instruction} and {image} once each, found"),
        ({"max_length": CONTEXT + 1}, f"language.max_length: expected at most the {CONTEXT} positions"),
        ({"max_length": 30}, "language.max_length: the prompt without an instruction and the [IMG] tokens take"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_line(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        writer(**settings)
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


def test_a_language_model_without_eyes_serves_lgie_alone(tmp_path: Any) -> None:
    from mmig.backbones.mllm import load_mllm

    llama = build_llama(tmp_path / "llama")
    assert load_mllm(llama, sees=False).config.model_type == "llama"
    with pytest.raises(
        BackboneError, match=r"expected model_type llava or qwen2_vl .*, found 'llama'; give the folder of such"
    ):
        load_mllm(llama)


def test_only_rows_train_whole_tables_or_the_new_ones() -> None:
    for rows, names in (("new", {"tokens.rows", "tokens.head_rows"}), ("all", None)):
        model = writer(rows=rows)
        trained = {name for name, value in model.named_parameters() if value.requires_grad}
        assert trained == (names or {"llm.model.language_model.embed_tokens.weight", "llm.lm_head.weight"})


@pytest.mark.parametrize("rows", ["all", "new"])
def test_old_rows_stay_bit_for_bit_with_weight_decay_where_only_new_ones_train(rows: Any) -> None:
    model, data = writer(rows=rows), batch()
    tables = [model.llm.get_input_embeddings().weight, model.llm.get_output_embeddings().weight]
    old = [table.detach()[: model.image_ids[0]].clone() for table in tables]
    new = model.tokens.input_rows().detach().clone()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01, weight_decay=0.5)
    encoded, visual = model.encode(INSTRUCTIONS, EXPRESSIVE), model.visual_tokens(data["source"])
    for _ in range(2):
        loss, states = model(encoded, visual)
        optimizer.zero_grad()
        (loss.values.sum() + states.square().sum()).backward()
        optimizer.step()
    same = [torch.equal(table[: model.image_ids[0]], before) for table, before in zip(tables, old, strict=True)]
    assert same == [rows == "new"] * 2
    assert not torch.equal(model.tokens.input_rows(), new)


def test_new_tokens_start_at_the_mean_and_known_ones_stay() -> None:
    model = writer(rows="all")
    table, first = model.llm.get_input_embeddings().weight, model.image_ids[0]
    torch.testing.assert_close(table[first], table[:first].mean(dim=0))
    with torch.no_grad():
        table[first] = 7.0
    again = InstructionWriter(model.llm, model.tokenizer, None, WriterConfig())
    assert again.image_ids == model.image_ids and (again.tokens.input_rows()[0] == 7.0).all()


def test_folders_say_how_pixels_are_normalised(tmp_path: Any) -> None:
    from mmig.backbones.mllm import pixel_statistics

    assert len(pixel_statistics(folders()[1]).mean) == 3
    with pytest.raises(BackboneError, match="expected image_mean and image_std in preprocessor_config"):
        pixel_statistics(build_llama(tmp_path / "llama"))
