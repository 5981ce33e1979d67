"""The language model: vectors at slots and nowhere else (A3), states at [base] and [gen] (A4), eq 1 (A5), phases."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.checkpoints.checkpoint import read_checkpoint
from mmig.language.greedy import plain_generation
from mmig.language.sequences import VISUAL_TOKEN, left_padded_ids, teacher_forced_ids
from mmig.methods.instruct_any2pix.language_module import LLM1Module, LLM2Module, LLM3Module
from mmig.methods.instruct_any2pix.reader import ReaderConfig
from mmig.methods.instruct_any2pix.slots import Slot
from mmig.methods.instruct_any2pix.vectors import IMAGE, TEXT
from mmig.training.lora import LoRAConfig
from mmig.training.rng import Draws
from tests.mmig.methods.instruct_any2pix.support import MODULES, WIDTH, as_batch, batch, language, path, sample_at, unit
from tests.saved_run import save_run, start_from

ROWS = [["add ", Slot(0), " to ", Slot(1)], [Slot(0), "\n", "a red circle"]]


@pytest.fixture(scope="module")
def phase() -> LLM1Module:
    return language()


@torch.no_grad()
def test_vectors_take_the_places_of_slots_and_of_nothing_else(phase: LLM1Module):
    reader, vectors = phase.reader, unit(2, 2, WIDTH)
    prompts = reader.prompt_ids(ROWS)
    assert [row.count(VISUAL_TOKEN) for row in prompts] == [2, 1]
    ids = teacher_forced_ids(prompts, [[], []], [[], []]).ids
    found = reader.embed(ids, vectors)
    words = reader.llm.get_input_embeddings()(ids.clamp(min=0))
    slots = ids == VISUAL_TOKEN
    assert torch.equal(found[~slots], words[~slots])
    state = reader.projectors.state_dict()
    given = torch.stack([vectors[0, 0], vectors[0, 1], vectors[1, 0]])
    hidden = torch.nn.functional.gelu(given @ state["enter.0.weight"].T + state["enter.0.bias"])
    torch.testing.assert_close(found[slots], hidden @ state["enter.2.weight"].T + state["enter.2.bias"])
    again = reader.embed(ids, 5 * vectors)
    torch.testing.assert_close(again, found)  # their length does not count


@torch.no_grad()
def test_states_at_the_tokens_are_those_of_generation(phase: LLM1Module):
    reader, vectors = phase.reader.eval(), unit(2, 2, WIDTH)
    written = reader.write(ROWS, vectors, 4)
    read = reader(reader.with_answers(ROWS, written.ids), vectors)
    for row, text in enumerate(written.ids):
        prompt = [*reader.prompt_ids(ROWS)[row], reader.base_id]
        ids, attention = left_padded_ids([prompt])
        embedded = reader.embed(ids, vectors[row : row + 1])
        follow = [*text, reader.gen_id]
        with plain_generation(reader.llm):
            found = reader.llm.generate(
                inputs_embeds=embedded,
                attention_mask=attention,
                max_new_tokens=len(follow) + 1,
                prefix_allowed_tokens_fn=lambda _, done, follow=follow: [[*follow, 2][len(done)]],
                do_sample=False,
                eos_token_id=None,
                pad_token_id=2,
                output_hidden_states=True,
                return_dict_in_generate=True,
            )
        base, gen = found.hidden_states[0][-1][:, -1], found.hidden_states[len(follow)][-1][:, -1]
        leave = reader.projectors.leave
        torch.testing.assert_close(read.base[row], leave(base)[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(read.gen[row], leave(gen)[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_vectors_that_are_read_change_what_is_said(phase: LLM1Module):
    reader = phase.reader.eval()
    encoded = reader.encode(ROWS, ["a picture", "a picture"])
    one, other = (reader(encoded, unit(2, 2, WIDTH, seed=seed)) for seed in (0, 1))
    assert (one.gen - other.gen).abs().max() > 1e-3 and (one.base - other.base).abs().max() > 1e-3
    assert one.base.shape == (2, WIDTH)


@torch.no_grad()
def test_the_losses_are_those_of_eq_1(phase: LLM1Module):
    chosen = batch(0, 1, 2, 3)
    found = phase.losses(chosen, Draws(0, range(4)))
    encoder, reader = phase.encoder, phase.reader
    for row in range(4):
        rows = [phase._pieces(chosen, row, Draws(0, range(4)))]
        vectors = phase._slot_vectors(chosen, reader.encode([[]] * 4, [""] * 4), Draws(0, range(4)))
        slots = [piece for piece in rows[0] if isinstance(piece, Slot)]
        attached = encoder.attachments(chosen)[row]
        source = encoder.images(chosen["source"][row : row + 1])[0]
        vectors = torch.stack([attached[slot.number] if slot.number >= 0 else source for slot in slots])[None]
        read = reader(reader.encode(rows, [chosen["target_caption"][row]]), vectors)
        torch.testing.assert_close(
            ((read.base[0] - source) ** 2).sum(), found["base"].values[row], atol=1e-4, rtol=1e-4
        )
        text = encoder.texts([chosen["target_caption"][row]])
        number = torch.tensor([TEXT])
        wanted = phase.prior.refine(text, number, torch.tensor([IMAGE]), 6.5)[0]
        torch.testing.assert_close(((read.gen[0] - wanted) ** 2).sum(), found["gen"].values[row], atol=1e-4, rtol=1e-4)
        ids = [
            *reader.prompt_ids(rows)[0],
            reader.base_id,
            *reader.text_ids(chosen["target_caption"][row]),
            reader.gen_id,
        ]
        inputs = reader.embed(torch.tensor([ids]), vectors)
        start = len(reader.prompt_ids(rows)[0])
        logits = reader.llm(inputs_embeds=inputs).logits[0, start - 1 :].log_softmax(-1)
        targets = torch.tensor([*ids[start:], reader.tokenizer.eos_token_id])
        expected = -logits[torch.arange(len(targets)), targets].mean()
        torch.testing.assert_close(found["text"].values[row], expected, atol=1e-4, rtol=1e-4)
        assert found["text"].counts[row] == len(targets)


def test_distances_of_unit_vectors_are_of_the_size_of_the_cross_entropy():
    one, other = unit(2000, 1024, seed=0), unit(2000, 1024, seed=1)
    assert (one - other).square().sum(-1).mean().item() == pytest.approx(2.0, abs=0.02)
    assert (20 * one - 20 * other).square().sum(-1).mean().item() == pytest.approx(801, rel=0.01)


def moved(found: Any) -> set[str]:
    """Names of the parameters that the losses reach."""
    terms = found.losses(batch(0, 1), Draws(0, [0, 1]))
    sum(term.values.sum() for term in terms.values()).backward()
    return {name for name, value in found.named_parameters() if value.grad is not None and value.grad.any()}


def test_the_first_phase_trains_projectors_embeddings_and_head():
    names = moved(language(LLM1Module))
    llm = {name for name in names if name.startswith("reader.llm.")}
    assert llm == {"reader.llm.model.embed_tokens.weight", "reader.llm.lm_head.weight"}
    assert {f"reader.projectors.{part}.{layer}.weight" for part in ("enter", "leave") for layer in (0, 2)} <= names
    assert names - llm == {name for name in names if name.startswith("reader.projectors.")}


def test_the_second_phase_trains_all_of_the_language_model():
    found = language(LLM2Module)
    assert {name for name, _ in found.reader.named_parameters()} == {name[7:] for name in moved(found)}


def test_with_low_rank_updates_the_blocks_themselves_rest():
    found = language(LLM2Module, lora=LoRAConfig(rank=2))
    names = moved(found)
    blocks = {name for name in names if ".layers." in name}
    assert blocks and all("lora_" in name for name in blocks)
    assert "reader.llm.model.embed_tokens.weight" in names


def test_the_first_phase_refuses_low_rank_updates():
    with pytest.raises(ValueError, match=r"^lora: LLM1Module trains no blocks"):
        language(LLM1Module, lora=LoRAConfig(rank=2))


@torch.no_grad()
def test_the_last_phase_draws_gen_to_the_edited_picture():
    found, chosen = language(LLM3Module), batch(0, 1)
    wanted = found.encoder.images(chosen["target"])
    torch.testing.assert_close(found._wanted(chosen), wanted)
    without = sample_at(0)
    del without["target"]
    terms = found.losses(as_batch([without, sample_at(1)]), Draws(0, [0, 1]))
    assert terms["gen"].counts.tolist() == [0, 1] and terms["base"].counts.tolist() == [1, 1]


@torch.no_grad()
def test_words_in_brackets_become_vectors_of_pictures_and_sounds_by_the_prior(phase: LLM1Module):
    marked = sample_at(0)
    del marked["attachments"]
    marked["instruction"] = "remove a car from a road"
    marked["metadata"] = {"marked": {"instruction": "remove [a car] from [a road]", "base": "a road"}}
    chosen = as_batch([marked] * 400)
    draws = Draws(0, range(400))
    rows = [phase._pieces(chosen, row, draws) for row in range(400)]
    converted = [len([piece for piece in pieces if isinstance(piece, Slot)]) == 2 for pieces in rows]
    assert sum(converted) / 400 == pytest.approx(0.8, abs=0.06)
    encoded = phase.reader.encode(rows, ["a road"] * 400)
    vectors = phase._slot_vectors(chosen, encoded, draws)[converted][:, 0]
    text, kind = phase.encoder.texts(["a car"]), torch.tensor([TEXT])
    made = [phase.prior.refine(text, kind, torch.tensor([number]), 6.5)[0] for number in (0, 1)]
    nearest = torch.stack([(vectors - one).norm(dim=-1) for one in made], dim=1)
    assert nearest.min(dim=1).values.max() < 1e-5
    assert (nearest.argmin(dim=1) == 0).float().mean().item() == pytest.approx(0.5, abs=0.09)


def test_what_cannot_count_counts_nothing_and_is_said():
    found = language(language=ReaderConfig(max_length=128))
    uncaptioned, long = sample_at(0), sample_at(1)
    del uncaptioned["target_caption"]
    long["instruction"] = long["instruction"] + " and" * 150
    terms = found.losses(as_batch([uncaptioned, long, sample_at(2)]), Draws(0, range(3)))
    assert [term.counts.gt(0).tolist() for term in terms.values()] == [[False, False, True]] * 3
    assert all(term.values.isfinite().all() for term in terms.values())
    assert found.logged()["text_cut"] == found.logged()["text_missing"] == pytest.approx(1 / 3)


def test_it_learns_what_a_few_instructions_mean():
    found, chosen = language(LLM2Module), batch(*range(6))
    optimizer = torch.optim.AdamW([value for value in found.parameters() if value.requires_grad], lr=2e-3)
    values = []
    for _ in range(20):
        terms = found.losses(chosen, Draws(0, range(6)))
        loss = sum(terms[name].values.mean() for name in ("text", "base", "gen"))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.6 * values[0]


def test_a_length_beyond_the_language_models_is_refused():
    with pytest.raises(ValueError, match=r"^language.max_length: expected at most the 256 positions"):
        language(language=ReaderConfig(max_length=300))


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_a_phase_goes_on_from_the_one_before(lora: dict[str, Any] | None, tmp_path: Path):
    parts = {"llm": path("llama"), "imagebind": path("imagebind"), "prior": path("prior")}
    arguments = {"optimizer": {"lr": 1e-3}, "language": {"max_length": 128}, **parts}
    first = f"{MODULES}.language_module.LLM1Module"
    run = save_run(tmp_path / "one", first, arguments)
    stored = read_checkpoint(run)["state_dict"]
    assert {name for name in stored if ".layers." in name} == set()  # the blocks rest, and are not stored
    second = start_from(run, first.replace("LLM1", "LLM2"), arguments if lora is None else {**arguments, "lora": lora})
    own = second.state_dict()
    for name in ("reader.projectors.leave.2.weight", "reader.llm.model.embed_tokens.weight"):
        assert torch.equal(own[name], stored[name])


def test_placeholders_in_a_caption_are_not_learnt(phase: LLM1Module):
    reader = phase.reader
    assert reader.caption_ids("a large <image:0> circle") == reader.text_ids("a large circle")
