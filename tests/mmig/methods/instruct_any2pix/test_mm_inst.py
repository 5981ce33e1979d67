"""MM-Inst's data: what is asked, which answers count (A12), and the three steps from shards to shards."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from mmig.methods.instruct_any2pix.build import main
from mmig.methods.instruct_any2pix.mm_inst import Instructions
from mmig.methods.instruct_any2pix.mm_inst_text import (
    EXAMPLES,
    OPERATIONS,
    Parsed,
    Refused,
    as_base,
    operations_of,
    parse,
    question,
)
from mmig.methods.instruct_any2pix.pseudo_targets import PseudoTargets, squared
from mmig.methods.instruct_any2pix.slots import CONVERTED, SOURCE, pieces_of, slots_in
from tests.datamodules.convert.results import samples
from tests.mmig.methods.instruct_any2pix.support import path
from tests.tiny_fixtures import build_blip2, build_llama

BASE = "a dog at the beach"
GOOD = f"Instruction: Replace [sound of dog barking] with [a cat] for [{BASE}]\nResult: A cat at the beach"
TEMPLATE = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}{% endfor %}assistant:"
KEYS = [f"picture-{number}" for number in range(8)]


def test_an_answer_is_read_whatever_stands_around_its_two_lines():
    expected = Parsed(f"Replace [sound of dog barking] with [a cat] for [{BASE}]", "A cat at the beach")
    assert parse(GOOD, BASE) == expected
    assert parse(f"Sure!\n\n**{GOOD.replace(':', ':', 1)}\n\nHope this helps.", BASE) == expected
    assert expected.plain == f"Replace sound of dog barking with a cat for {BASE}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_worked_examples_pass_the_rules_themselves(name: str):
    marked, result = EXAMPLES[name]
    bracket = marked[marked.rindex("[") + 1 : marked.rindex("]")] if name != "atmosphere" else None
    base = bracket or marked[marked.index("[") + 1 : marked.index("]")]
    assert isinstance(parse(f"Instruction: {marked}\nResult: {result}", base), Parsed)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("a cat at the beach", "no_instruction"),
        (f"Instruction:\nResult: {BASE}", "no_instruction"),
        (f"Instruction: remove [sand] from [{BASE}]", "no_result"),
        (f"Instruction: remove [sand] from [{BASE}]\nResult: ", "no_result"),
        (f"Instruction: remove [sand from [{BASE}]\nResult: x", "unbalanced"),
        (f"Instruction: remove [sand] from {BASE}]\nResult: x", "unbalanced"),
        ("Instruction: remove [sand] from [a dog on a beach]\nResult: x", "base_absent"),
        (f"Instruction: remove [sand] from {BASE}\nResult: x", "base_absent"),
        (f"Instruction: add [a] [b] [c] [d] to [{BASE}]\nResult: x", "too_many"),
        (f"Instruction: add [] to [{BASE}]\nResult: x", "empty"),
        (f"Instruction: keep [{BASE}]\nResult: A Dog at the beach.", "unchanged"),
    ],
)
def test_every_rule_refuses_what_it_is_for(answer: str, reason: str):
    found = parse(answer, BASE)
    assert isinstance(found, Refused) and found.reason == reason and "\n" not in found.detail


def test_one_operation_is_asked_for_in_seven_of_ten_questions_and_all_come_equally_often():
    asked = [operations_of(seed) for seed in range(6000)]
    assert sum(len(one) == 1 for one in asked) / 6000 == pytest.approx(0.7, abs=0.025)
    counts = Counter(name for one in asked for name in one)
    assert min(counts.values()) > 0.92 * sum(counts.values()) / 5
    assert all(len(set(one)) == len(one) for one in asked)


def test_a_question_has_the_caption_in_a_bracket_and_the_operations():
    text = question(as_base("a [big]  dog. "), ("add", "style"))
    assert "The base caption is [a big dog];" in text and "one example of add and style" in text
    assert all(marked in text for marked, _ in EXAMPLES.values())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with captions, one of them without."""
    folder = tmp_path_factory.mktemp("mm-inst") / "source"
    made: list[Any] = []
    for number, key in enumerate(KEYS):
        picture = Image.effect_noise((80, 64), 20 + number).convert("RGB")
        made.append({"key": key, "target": picture, "target_caption": BASE})
    del made[3]["target_caption"]
    write_shards(made, folder, samples_per_shard=3)
    return folder


def write_answers(file: Path, answers: dict[str, Any]) -> Path:
    file.write_text("".join(json.dumps({"key": key, "answer": answer}) + "\n" for key, answer in answers.items()))
    return file


def replayed(source: Path, folder: Path) -> dict[str, Any]:
    """Instructions of answers that were given elsewhere; the report."""
    answers: dict[str, Any] = dict.fromkeys(KEYS, GOOD)
    answers |= {KEYS[1]: "no", KEYS[2]: f"Instruction: add [a] to [b]\nResult: {BASE}", KEYS[3]: None}
    file = write_answers(folder / "answers.jsonl", answers)
    out = folder / "out"
    main(["instructions", "--source", str(source), "--out", str(out), "--replay", str(file)])
    return json.loads((out / "conversion.json").read_text())


def test_answers_of_a_file_become_samples_and_refusals_are_counted(source: Path, tmp_path: Path):
    report = replayed(source, tmp_path)
    (totals,) = report["splits"].values()
    dropped = {"nothing: no_instruction": 1, "nothing: base_absent": 1, "nothing: no_caption": 1}
    assert totals["dropped"] == dropped and totals["samples"] == 5
    assert totals["counted"]["brackets"] == 15
    found = samples(tmp_path / "out")[KEYS[0]]
    assert found["instruction"] == f"Replace sound of dog barking with a cat for {BASE}"
    assert found["target_caption"] == "A cat at the beach" and found["source_caption"] == BASE
    assert found["source"].size == (80, 64) and "target" not in found
    assert found["edit_type"] == Instructions().operations(KEYS[0])[0]


def test_what_is_made_is_read_as_slots_by_the_language_phases(source: Path, tmp_path: Path):
    replayed(source, tmp_path)
    data = ShardData(train=str(tmp_path / "out"), global_batch_size=2, num_workers=0, resolution=64)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    slots = slots_in(pieces_of(batch, 0))
    assert [(slot.number, slot.words) for slot in slots] == [
        (CONVERTED, "sound of dog barking"),
        (CONVERTED, "a cat"),
        (SOURCE, ""),
    ]


def test_a_language_model_is_asked_through_its_chat_template(source: Path, tmp_path: Path):
    folder = build_llama(tmp_path / "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    record, options = tmp_path / "record.jsonl", ["--source", str(source), "--device", "cpu", "--max-tokens", "4"]
    with pytest.raises(SystemExit, match=r"no sample was kept .* no_instruction 7, nothing: no_caption 1"):  # random
        main(["instructions", "--model", str(folder), "--out", str(tmp_path / "o"), "--record", str(record), *options])
    answers = {entry["key"]: entry["answer"] for entry in map(json.loads, record.read_text().splitlines())}
    assert answers.keys() == set(KEYS) and answers[KEYS[3]] is None and isinstance(answers[KEYS[0]], str)


def test_a_model_without_a_chat_template_is_one_line(source: Path, tmp_path: Path):
    folder = build_llama(tmp_path / "llama")
    with pytest.raises(SystemExit, match=r"^error: .*llama: expected a chat template"):
        main(["instructions", "--model", str(folder), "--source", str(source), "--out", str(tmp_path / "out")])


def test_nothing_to_answer_is_one_line(source: Path, tmp_path: Path):
    with pytest.raises(SystemExit, match=r"^error: no model is named: give --model MODEL, or --replay FILE"):
        main(["instructions", "--source", str(source), "--out", str(tmp_path / "out")])


def test_pictures_are_captioned_anew_and_keep_their_old_caption(source: Path, tmp_path: Path):
    folder = build_blip2(tmp_path / "blip2")
    options = ["--source", str(source), "--out", str(tmp_path / "out"), "--device", "cpu", "--max-tokens", "5"]
    record = tmp_path / "record.jsonl"
    main(["captions", "--captioner", str(folder), "--record", str(record), *options])
    answers = {entry["key"]: entry["answer"] for entry in map(json.loads, record.read_text().splitlines())}
    found = samples(tmp_path / "out")
    assert found and all(found[key]["target_caption"] == answers[key] for key in found)
    assert all(found[key]["metadata"]["caption"] == BASE for key in found if key != KEYS[3])


@pytest.mark.parametrize("pipeline", ["stable-diffusion", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_edited_pictures_are_drawn_from_inverted_ones(source: Path, tmp_path: Path, pipeline: str):
    replayed(source, tmp_path)
    options = ["--pipeline", path(pipeline), "--resolution", "64", "--num-steps", "2", "--device", "cpu"]
    main(["targets", "--source", str(tmp_path / "out"), "--out", str(tmp_path / "targets"), *options])
    found = samples(tmp_path / "targets")
    assert len(found) == 5
    for sample in found.values():
        assert sample["source"].size == sample["target"].size == (64, 64)
        assert sample["source"].tobytes() != sample["target"].tobytes()


@torch.no_grad()
def test_the_target_follows_the_results_caption_and_keeps_the_rest_of_the_sample():
    picture = Image.effect_noise((64, 64), 60).convert("RGB")
    made: Any = {"key": "a", "source": picture, "source_caption": BASE, "target_caption": "A cat", "instruction": "x"}
    mapper = PseudoTargets(path("stable-diffusion"), 64, 2, device="cpu")
    (one,), (other,) = (mapper([made | {"target_caption": text}]) for text in ("a red circle", "a blue square"))
    drawn = [outcome.samples[0]["target"] for outcome in (one, other)]
    assert drawn[0].tobytes() != drawn[1].tobytes() and one.samples[0]["instruction"] == "x"
    assert mapper([{"key": "b"}])[0].reason == "no_pair"


def test_pictures_are_cut_to_the_square_in_their_middle():
    picture = Image.new("RGB", (120, 40), "white")
    picture.paste((255, 0, 0), (40, 0, 80, 40))
    assert squared(picture, 40).getcolors() == [(1600, (255, 0, 0))]
    assert squared(picture, 16).size == (16, 16)
