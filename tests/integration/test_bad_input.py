"""What a user can get wrong ends in one clear line that says what, where and what to do."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from mmig.run.cli import main
from tests.integration.workspace import Workspace
from tests.tiny_fixtures import build_llama


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("original"), num_samples=24)


@pytest.fixture
def workspace(original: Workspace, tmp_path: Path) -> Workspace:
    """A copy to damage."""
    copy = Workspace.__new__(Workspace)
    copy.folder = tmp_path / "copy"
    shutil.copytree(original.folder, copy.folder)
    return copy


def fit(workspace: Workspace, *overrides: str, **changes: object) -> str:
    """Run `train.py fit` in this process; returns what it printed as its last word, or "" where it succeeded."""
    config = workspace.config(max_steps=2, enable_progress_bar=False)
    config["data"]["init_args"].update(changes)
    file = workspace.folder / "config.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    try:
        main(["fit", "--config", str(file), "--name", "run", "--runs", str(workspace.folder / "runs"), *overrides])
    except SystemExit as stop:
        return str(stop.code)
    return ""


def one_line(message: str, *parts: str) -> None:
    assert message.startswith("error: ") and "\n" not in message, message
    for part in parts:
        assert part in message


def checkpoints(workspace: Workspace) -> list[Path]:
    return sorted((workspace.folder / "runs" / "run" / "checkpoints").glob("*"))


def test_missing_shard(workspace: Workspace) -> None:
    shard = sorted((workspace.folder / "train").glob("*.tar"))[0]
    shard.unlink()
    one_line(fit(workspace), shard.name)
    assert checkpoints(workspace) == []


def test_wrong_bytes_in_a_shard(workspace: Workspace) -> None:
    shard = sorted((workspace.folder / "train").glob("*.tar"))[0]
    content = bytearray(shard.read_bytes())
    for place in range(1024, len(content), 512):
        content[place] ^= 0xFF
    shard.write_bytes(bytes(content))
    one_line(fit(workspace, "--trainer.max_steps", "4", max_bad_fraction=0.0, global_batch_size=8), "checksum")


def test_empty_data_set(workspace: Workspace) -> None:
    shutil.rmtree(workspace.folder / "train")
    (workspace.folder / "train").mkdir()
    one_line(fit(workspace), str(workspace.folder / "train"))


def test_batch_larger_than_the_data(workspace: Workspace) -> None:
    one_line(fit(workspace, global_batch_size=1000), "global_batch_size", "1000")


def test_images_of_another_size_are_brought_to_the_resolution(workspace: Workspace) -> None:
    assert fit(workspace, resolution=32) == ""


def test_unreadable_checkpoint(workspace: Workspace) -> None:
    assert fit(workspace) == ""
    newest = checkpoints(workspace)[-1]
    newest.write_bytes(newest.read_bytes()[:1000])
    one_line(fit(workspace, "--trainer.max_steps", "4"), "cannot read checkpoint", newest.name)


def test_checkpoint_of_another_backbone(workspace: Workspace) -> None:
    assert fit(workspace) == ""
    shutil.rmtree(workspace.folder / "llama")
    build_llama(workspace.folder / "llama", seed=99)
    one_line(fit(workspace, "--trainer.max_steps", "4"), "backbone llm", "give the same files")


def test_missing_backbone(workspace: Workspace) -> None:
    shutil.rmtree(workspace.folder / "llama")
    one_line(fit(workspace), str(workspace.folder / "llama"))


def test_unknown_key_is_named(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit(workspace, "--model.init_args.mmsm.headz", "2") == "2"
    one_line(capsys.readouterr().err.strip(), "'headz' is not accepted", "dim, heads, locations")


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("--data.init_args.storage.attempts=0", "storage.attempts: expected at least 1, found 0"),
        ("--model.init_args.micro_batch_size=0", "micro_batch_size must be at least 1, found 0"),
    ],
)
def test_a_value_that_a_class_refuses_is_one_line(workspace: Workspace, option: str, reason: str) -> None:
    one_line(fit(workspace, option), reason)


def test_second_writer_is_refused(workspace: Workspace) -> None:
    run = workspace.folder / "runs" / "run"
    run.mkdir(parents=True)
    (run / "lock.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    one_line(fit(workspace), "elsewhere", "--name")
