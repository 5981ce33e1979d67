"""MGIE's data step for real: a tiny LLaVA and a tiny T5 write targets for 50 rows of the small world."""

import json
import shutil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from datamodules.decode import decode
from datamodules.schema import Sample
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader
from datamodules.shards import write_shards
from datamodules.tinyworld.world import World
from datamodules.tinyworld.write import generate
from mmig.backbones.fetch import read_references
from mmig.methods.mgie import expressive
from mmig.methods.mgie.asking import load_asker
from mmig.methods.mgie.expressive import ExpressiveTargets
from mmig.methods.mgie.expressive_text import HEADER, QUESTION, clean
from mmig.methods.mgie.summariser import PROMPT, load_summariser
from mmig.run.map import main, read_config
from tests.tiny_llava import build_llava
from tests.tiny_qwen_vl import build_qwen_vl
from tests.tiny_t5 import build_t5

COUNT, EACH, TOKENS, SUMMARY = 50, 8, 8, 6
HERE = "tests.mmig.methods.mgie.deadly.DeadlyTargets"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {"model": str(build_llava(folder / "llava")), "summariser": str(build_t5(folder / "t5"))}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 rows of the small world, without its own targets; one has no picture, one no instruction."""
    samples: list[Any] = list(generate("train", COUNT, World(level="plain")))
    for sample in samples:
        del sample["expressive"]
    del samples[20]["source"]
    samples[30]["instruction"] = "  "
    folder = tmp_path_factory.mktemp("rows") / "source"
    write_shards(samples, folder, EACH)
    return folder


def config(folder: Path, settings: dict[str, Any], **more: Any) -> Path:
    kind = HERE if "fatal_at" in more else "mmig.methods.mgie.expressive.ExpressiveTargets"
    given = settings | {"max_tokens": TOKENS, "summary_tokens": SUMMARY, "device": "cpu"} | more
    path = folder / f"map-{len(list(folder.glob('*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump({"mapper": {"class_path": kind, "init_args": given}, "batch_size": 4}))
    return path


def options(source: Path, out: Path, config: Path, *more: str | Path) -> list[str]:
    return ["--config", str(config), "--source", str(source), "--out", str(out), *map(str, more)]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def samples_in(folder: Path) -> dict[str, Sample]:
    index = ShardIndex.load(folder)
    reader = ShardReader(index)
    return {
        (key := reader.key(shard, row)): decode(
            key, {name: bytes(data) for name, data in reader.read(shard, row).items()}
        )
        for shard, held in enumerate(index.shards)
        for row in range(held.count)
    }


def answers_in(record: Path) -> dict[str, Any]:
    return {entry["key"]: entry["answer"] for entry in map(json.loads, record.read_text().splitlines())}


@pytest.fixture(scope="module")
def written(source: Path, models: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one undisturbed process makes, and its answers in answers.jsonl beside."""
    folder = tmp_path_factory.mktemp("written")
    main(options(source, folder / "out", config(folder, models), "--record", folder / "answers.jsonl"))
    return folder / "out"


def test_every_target_is_the_summary_of_the_cleaned_answer(source: Path, models: dict[str, str], written: Path) -> None:
    answers, before, after = answers_in(written.parent / "answers.jsonl"), samples_in(source), samples_in(written)
    shorten = load_summariser(models["summariser"], PROMPT, SUMMARY, "float32", torch.device("cpu"))
    assert len(after) >= 45 and len(answers) == COUNT
    for key, sample in list(after.items())[:10]:
        assert sample["expressive"] == shorten(clean(answers[key])) != ""
        same = {name: value for name, value in sample.items() if name not in ("expressive", "source", "target")}
        assert same == {name: before[key][name] for name in same}
        assert sample["source"].tobytes() == before[key]["source"].tobytes()


def test_the_model_sees_the_picture_and_reads_the_instruction(models: dict[str, str], source: Path) -> None:
    samples = [sample for sample in samples_in(source).values() if "source" in sample][:12]
    mapper = ExpressiveTargets(models["model"], max_tokens=TOKENS, device="cpu")
    noise = Image.frombytes("RGB", (64, 64), bytes(number * 37 % 251 for number in range(64 * 64 * 3)))
    answers = mapper.answer(samples)
    assert answers != mapper.answer([sample | {"source": noise} for sample in samples])
    assert answers != mapper.answer([sample | {"instruction": "add a star"} for sample in samples])


def test_half_precision_answers_too(models: dict[str, str], source: Path) -> None:
    sample = next(iter(samples_in(source).values()))
    half = {"dtype": "bfloat16", "summariser_dtype": "bfloat16", "max_tokens": TOKENS, "summary_tokens": SUMMARY}
    mapper = ExpressiveTargets(**models, **half, device="cpu")
    (answer,) = mapper.answer([sample])
    assert isinstance(answer, str) and mapper.apply(sample, answer)


def test_questions_asked_together_get_the_answers_that_each_gets_alone(models: dict[str, str], source: Path) -> None:
    samples = list(samples_in(source).values())[18:32]  # two among them are not asked about
    answers = [
        ExpressiveTargets(models["model"], max_tokens=TOKENS, batch_size=size, device="cpu").answer(samples)
        for size in (1, 5)
    ]
    assert answers[0] == answers[1] and answers[0].count(None) == 2


def test_another_multimodal_llm_answers_by_its_own_template_and_ends(tmp_path: Path, source: Path) -> None:
    folder = build_qwen_vl(tmp_path / "qwen")
    samples = list(samples_in(source).values())[:3]
    samples[1] = samples[1] | {"source": samples[1]["source"].resize((96, 64))}  # more patches, more tokens
    alone, together = (
        ExpressiveTargets(str(folder), max_tokens=TOKENS, batch_size=size, device="cpu").answer(samples)
        for size in (1, 3)
    )
    assert alone == together and all(isinstance(answer, str) for answer in alone)
    asker = load_asker(folder, TOKENS, "float32", torch.device("cpu"))
    prompt = asker.prompt("what if 'add a <|image_pad|> star'\n")
    assert prompt.startswith("<|im_start|>user\nwhat if 'add a  star'\n<|vision_start|>")
    ids = asker.processor.tokenizer.convert_tokens_to_ids(["red", "<|endoftext|>", "blue"])
    assert asker._text(ids) == asker.processor.tokenizer.decode(ids[:1])


def test_rows_without_picture_or_instruction_and_empty_answers_are_counted_and_named(
    source: Path, models: dict[str, str], written: Path, tmp_path: Path
) -> None:
    report = json.loads((written / "conversion.json").read_bytes())
    keys = list(samples_in(source))
    said = {entry["item"]: entry["detail"] for entry in report["findings"]}
    assert said[keys[20]] == "no source picture to ask about" and said[keys[30]] == "no instruction to ask about"
    answers = answers_in(written.parent / "answers.jsonl") | {keys[3]: "Alternatively, nothing.", keys[4]: None}
    replay = tmp_path / "answers.jsonl"
    replay.write_text("".join(json.dumps({"key": key, "answer": text}) + "\n" for key, text in answers.items()))
    main(options(source, tmp_path / "out", config(tmp_path, models, summariser=None), "--replay", replay))
    report = json.loads((tmp_path / "out/conversion.json").read_bytes())
    said = {entry["item"]: entry["detail"] for entry in report["findings"]}
    assert report["splits"][""]["dropped"] == {"nothing": 4}
    assert said[keys[3]] == "nothing is left of the answer 'Alternatively, nothing.'"
    assert said[keys[4]] == "the question is longer than what the model reads"
    after = samples_in(tmp_path / "out")
    assert len(after) == COUNT - 4
    assert all(sample["expressive"] == clean(answers[key]) for key, sample in after.items())


def test_a_killed_one_goes_on_and_gives_the_bytes_of_an_undisturbed_one(
    source: Path, models: dict[str, str], written: Path, tmp_path: Path
) -> None:
    out, record = tmp_path / "out", tmp_path / "answers.jsonl"
    deadly = options(source, out, config(tmp_path, models, fatal_at=21), "--record", record)

    def run() -> None:
        torch.set_num_threads(torch.get_num_threads())  # makes the thread pool anew
        main(deadly)

    process = get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -9 and not (out / "index.json").exists()
    assert len(answers_in(record)) == 20
    main(options(source, out, config(tmp_path, models), "--record", record))
    assert contents(out) == contents(written)
    assert record.read_bytes() == (written.parent / "answers.jsonl").read_bytes()


def test_two_ranks_give_the_bytes_of_one(
    source: Path, models: dict[str, str], written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = config(tmp_path, models)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        main(options(source, tmp_path / "out", made, "--record", tmp_path / "answers.jsonl"))
    assert contents(tmp_path / "out") == contents(written)


def test_answers_are_replayed_without_loading_the_model(
    source: Path, models: dict[str, str], written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(expressive, "load_asker", refuse)
    record = written.parent / "answers.jsonl"
    main(options(source, tmp_path / "out", config(tmp_path, models), "--replay", record))
    assert contents(tmp_path / "out") == contents(written)


def test_answers_of_a_hub_model_are_replayed_where_it_is_not(source: Path, written: Path, tmp_path: Path) -> None:
    lines = (written.parent / "answers.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "answers.jsonl").write_text("".join(lines))
    made = config(tmp_path, {"model": "nobody/llava-tiny"})
    main(options(source, tmp_path / "out", made, "--replay", tmp_path / "answers.jsonl"))
    assert json.loads((tmp_path / "out/conversion.json").read_bytes())["plan"]["settings"]["facts"]["model"] == (
        "nobody/llava-tiny"
    )
    (tmp_path / "answers.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(SystemExit, match=r"^error: mllm: nobody/llava-tiny is no local folder and not complete"):
        main(options(source, tmp_path / "other", made, "--replay", tmp_path / "answers.jsonl"))


def test_a_question_that_fills_the_context_is_not_answered_and_a_long_one_gets_fewer_words(
    tmp_path: Path, source: Path
) -> None:
    folder = build_llava(tmp_path / "llava", context=150)
    whole, long, longer = [dict(sample) for sample in list(samples_in(source).values())[:3]]
    long["instruction"], longer["instruction"] = "red " * 28, "red " * 100
    mapper = ExpressiveTargets(str(folder), max_tokens=60, batch_size=3, device="cpu")
    answers = mapper.answer([whole, long, longer])
    assert answers[2] is None and 0 < len(answers[1]) < len(answers[0])
    assert mapper.apply(longer, None) == "the question is longer than what the model reads"
    control = whole | {"instruction": "add <image> and <im<image>age> </s> too"}
    assert isinstance(mapper.answer([control])[0], str)  # its placeholders are none of the picture's


def refused(source: Path, folder: Path, settings: dict[str, Any], **more: Any) -> str:
    made = config(folder, settings, **more)
    with pytest.raises(SystemExit) as stop:
        main(options(source, folder / made.stem, made))
    assert not list(folder.glob("*/*.tar"))
    return str(stop.value.code)


def test_models_and_settings_that_do_not_fit_are_one_clear_line(
    source: Path, models: dict[str, str], tmp_path: Path
) -> None:
    mute = shutil.copytree(models["model"], tmp_path / "mute")
    (mute / "chat_template.jinja").unlink()
    blind = shutil.copytree(models["summariser"], tmp_path / "blind")
    (blind / "processor_config.json").write_text("{}")
    wrong = {
        "expected a chat template": {"model": str(mute)},
        "expected model_type a model's that reads pictures and texts": {"model": str(blind)},
        "of a mllm_processor": {"model": models["summariser"]},
        "expected model_type a sequence-to-sequence model's": {"summariser": models["model"]},
        "does not exist": {"summariser": str(tmp_path / "nowhere")},
        "question: expected {instruction} in it": {"question": "what now?"},
        "max_tokens: expected a whole number of at least 1": {"max_tokens": 0},
        "summary_tokens: expected a whole number of at least 6": {"summary_tokens": 5},
    }
    for words, settings in wrong.items():
        found = refused(source, tmp_path, models, **settings)
        assert found.startswith("error: ") and words in found and "\n" not in found, (words, found)


def test_an_answer_of_another_mapper_is_one_clear_line(models: dict[str, str], source: Path, tmp_path: Path) -> None:
    keys = list(samples_in(source))
    replay = tmp_path / "answers.jsonl"
    replay.write_text("".join(json.dumps({"key": key, "answer": {"brightness": 1.0}}) + "\n" for key in keys))
    with pytest.raises(SystemExit, match=f"^error: the answer for '{keys[0]}': expected a text or null, found {{"):
        main(options(source, tmp_path / "out", config(tmp_path, models), "--replay", replay))


def test_the_published_configuration_names_its_models_to_whoever_fetches_them(root: Path) -> None:
    path = root / "configs/mgie/expressive.yaml"
    mapper, _ = read_config(path)
    assert isinstance(mapper, ExpressiveTargets)
    assert (mapper.question, mapper.header, mapper.max_tokens, mapper.summary_tokens) == (QUESTION, HEADER, 1024, 64)
    found = {reference.path: {part.name for part in reference.parts} for reference in read_references([path])}
    assert found == {
        "llava-hf/llava-1.5-7b-hf": {"mllm", "mllm_processor"},
        "jordiclive/flan-t5-11b-summarizer-filtered": {"summariser", "summariser_tokenizer"},
    }
