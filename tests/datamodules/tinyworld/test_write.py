"""Splits on disk: reproducible to the byte, read back through the stream, bad requests refused in one line."""

import hashlib
from threading import Event, Thread

import pytest
import yaml

from datamodules.decode import decode
from datamodules.remote_index import open_index
from datamodules.shard_reader import ShardReader
from datamodules.shard_writer import held
from datamodules.shards import verify
from datamodules.tinyworld.__main__ import main
from datamodules.tinyworld.data import TinyWorldData
from datamodules.tinyworld.sample import make_sample
from datamodules.tinyworld.world import World
from datamodules.tinyworld.write import write_split


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_shards_are_equal_to_the_byte_for_any_number_of_workers(tmp_path):
    write_split(tmp_path / "one", "train", 70, World())
    write_split(tmp_path / "two", "train", 70, World(), workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")
    assert verify(tmp_path / "one") == []


def test_every_sample_is_reported_to_the_progress_bar(tmp_path):
    ticks = []
    write_split(tmp_path / "shards", "val", 5, World(), each=lambda: ticks.append(1))
    assert len(ticks) == 5


def test_the_command_writes_a_split(tmp_path, capsys):
    assert main(["--out", str(tmp_path / "shards"), "--split", "val", "--count", "3", "--no-photographs"]) == 0
    assert "3 samples in 1 shards" in capsys.readouterr().out.replace("\n", " ")


def test_the_command_writes_a_level_and_kinds_of_instruction(tmp_path):
    wanted = ["--level", "plain", "--kinds", "literal", "inferable", "--split", "test"]
    assert main(["--out", str(tmp_path / "shards"), "--count", "20", *wanted]) == 0
    found = list(samples_of(tmp_path / "shards"))
    assert all(sample["key"].startswith("plain-test-") for sample in found)
    assert {sample["metadata"]["kind"] for sample in found} == {"literal", "inferable"}


def samples_of(folder):
    reader = ShardReader(open_index(str(folder)))
    return [decode(reader.key(0, row), reader.read(0, row)) for row in range(20)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--count", "1", "--split", "unseen_photographs", "--level", "plain"], "level plain has none"),
        (["--count", "1", "--split", "outline", "--kinds", "visual"], "no instruction that is visual"),
        (["--count", "0"], "count: expected at least 1"),
        (["--count", "1", "--split", "unseen_photographs", "--no-photographs"], "needs photographs"),
    ],
)
def test_a_bad_request_leaves_nothing_that_looks_complete(tmp_path, capsys, options, words):
    assert main(["--out", str(tmp_path / "shards"), *options]) == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "shards" / "index.json").exists()


def write_yaml(tmp_path, **section):
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump({"data": {"class_path": "datamodules.tinyworld.data.TinyWorldData", **section}}))
    return path


def test_the_command_writes_what_a_configuration_lacks_as_the_data_module_would(tmp_path, capsys):
    counts = {"train_count": 5, "val_count": 2, "test_count": 3, "photographs": False}
    path = write_yaml(tmp_path, init_args={"root": str(tmp_path / "a"), **counts})
    assert main(["--config", str(path)]) == 0
    TinyWorldData(str(tmp_path / "b"), **counts).prepare_data()
    folders = sorted(folder.name for folder in (tmp_path / "b").iterdir())
    assert len(folders) == 3
    for name in folders:
        assert digests(tmp_path / "a" / name) == digests(tmp_path / "b" / name)
    assert capsys.readouterr().out.count("samples/s") == 3
    assert main(["--config", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.count("there already") == 3 and "samples/s" not in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: [", "data.yaml: while parsing"),
        ("", "data: expected a section with class_path and init_args, found None"),
        ("data: 3", "data: expected a section with class_path and init_args, found 3"),
        ("data: {init_args: {}}", "data.class_path: expected datamodules.tinyworld.data.TinyWorldData, found None"),
        ("data: {class_path: datamodules.shard_data.ShardData}", "found 'datamodules.shard_data.ShardData'"),
        ("data: {class_path: CLASS, init_args: [1]}", "data.init_args: expected names and values"),
        ("data: {class_path: CLASS, init_args: {cout: 3}}", "'cout'"),
        ("data: {class_path: CLASS, init_args: {train_count: many}}", "data.init_args.train_count"),
        ("data: {class_path: CLASS, init_args: {val_count: 0}}", "data.init_args.val_count: expected at least 1"),
        ("data: {class_path: CLASS, init_args: {test_split: seen}}", "data.init_args.test_split: expected one of"),
        ("data: {class_path: CLASS, init_args: {level: hard}}", "data.init_args.level: expected one of plain, full"),
        ("data: {class_path: CLASS, init_args: {kinds: [odd]}}", "data.init_args.kinds: expected some of literal"),
        (
            "data: {class_path: CLASS, init_args: {test_split: unseen_photographs, photographs: false, root: ROOT, "
            "train_count: 1, val_count: 1}}",
            "needs photographs",
        ),
    ],
)
def test_a_bad_configuration_is_one_line_with_file_and_key(tmp_path, capsys, text, words):
    path = tmp_path / "data.yaml"
    path.write_text(text.replace("CLASS", "datamodules.tinyworld.data.TinyWorldData").replace("ROOT", str(tmp_path)))
    assert main(["--config", str(path)]) == 1
    line = capsys.readouterr().err.strip()
    assert line.startswith(str(path)) and words in line and "\n" not in line


def test_a_missing_configuration_is_named(tmp_path, capsys):
    assert main(["--config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err


def data(tmp_path, **options):
    return TinyWorldData(
        root=str(tmp_path), train_count=12, val_count=4, test_count=4, global_batch_size=4, eval_batch_size=4, **options
    )


def test_the_data_module_writes_what_is_missing_and_reads_it_back(tmp_path):
    module = data(tmp_path)
    module.prepare_data()
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["source"].shape == (4, 3, 64, 64) and bool(batch["has_target_mask"].all())
    index = batch["metadata"][0]["index"]
    expected = make_sample(0, "train", index)
    assert batch["response"][0] == expected["response"] and batch["metadata"][0] == expected["metadata"]


def test_what_is_there_already_is_kept(tmp_path):
    data(tmp_path).prepare_data()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")}
    data(tmp_path).prepare_data()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.tar")} == before


def test_other_settings_use_other_folders(tmp_path):
    base = data(tmp_path)
    for options in (
        {"photographs": False},
        {"world_seed": 1},
        {"test_split": "outline"},
        {"level": "plain"},
        {"kinds": ["literal"]},
    ):
        assert data(tmp_path, **options).folders["test"] != base.folders["test"]


def test_plain_has_no_photographs_to_leave_out(tmp_path):
    folders = [data(tmp_path, level="plain", photographs=given).folders for given in (True, False)]
    assert folders[0] == folders[1]


def test_shards_of_before_there_were_levels_are_read_as_full_and_named(tmp_path, caplog):
    old = tmp_path / "train-12-seed0-v1"
    write_split(old, "train", 12, World())
    module = data(tmp_path)
    assert module.folder("train") == old and module.folder("val").name == "val-4-seed0-v2"
    assert str(old) in caplog.text and len(module.load_index("train")) == 12
    assert data(tmp_path, level="plain").folder("train").name == "plain-train-12-seed0-v2"


def test_new_shards_come_before_old_ones(tmp_path):
    for version in (1, 2):
        write_split(tmp_path / f"train-12-seed0-v{version}", "train", 12, World())
    assert data(tmp_path).folder("train").name == "train-12-seed0-v2"


def test_a_folder_of_another_level_is_refused_in_one_line(tmp_path):
    module = data(tmp_path, level="plain")
    write_split(module.folder("val"), "val", 4, World())
    with pytest.raises(ValueError, match=r"val-4-seed0-v2: expected samples of level plain, found full; set") as caught:
        module.setup("validate")
    assert "\n" not in str(caught.value)


def test_an_unknown_test_split_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"data\.init_args\.test_split: expected one of"):
        data(tmp_path, test_split="unseen")


@pytest.fixture
def waiting(caplog):
    """Set once a data module waits for another writer."""
    event = Event()
    caplog.set_level("INFO")
    caplog.handler.addFilter(lambda record: "waiting for that" not in record.getMessage() or not event.set())
    return event


def test_what_another_run_is_writing_is_waited_for_and_written_once(tmp_path, waiting):
    written = []
    second = Thread(target=data(tmp_path).prepare_split, args=("train", lambda: written.append("second")))

    def first_sample_lets_the_second_run_come():
        if not written:
            second.start()
            assert waiting.wait(60)
        written.append("first")

    data(tmp_path).prepare_split("train", first_sample_lets_the_second_run_come)
    second.join(60)
    assert not second.is_alive() and written == ["first"] * 12


def test_what_another_run_began_and_left_is_written(tmp_path, waiting):
    module = data(tmp_path)
    second = Thread(target=module.prepare_split, args=("train",))
    with held(module.folder("train")):
        second.start()
        assert waiting.wait(60) and not module.is_written("train")
    second.join(60)
    assert module.is_written("train")
