"""The fine-tuning demo: what it trains on is not what it tests on, and before and after see the same edits."""

from pathlib import Path

import pytest

from datamodules.tinyworld.sample import make_sample
from mmig import finetune_demo


def option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would run; those that write samples leave a tar."""
    found: list[list[str]] = []

    def run(title: str, *command: str) -> None:
        found.append([*command])
        if "datamodules.tinyworld" in command:
            folder = Path(option([*command], "--out"))
            folder.mkdir()
            (folder / "00000.tar").touch()

    monkeypatch.setattr(finetune_demo, "run", run)
    finetune_demo.main(["--name", "f", "--root", str(tmp_path), "--limit", "9", "--sampling", "num_steps=10"])
    return found


def test_both_runs_are_evaluated_on_the_same_edits_and_compared(commands: list[list[str]]) -> None:
    evaluations = [command for command in commands if command[0] == "evaluate.py"]
    assert [(option(c, "--checkpoint"), option(c, "--split"), option(c, "--compare")) for c in evaluations] == [
        ("runs/f-before", "outline", None),
        ("runs/f", "outline", "runs/f-before/outline"),
        ("runs/f-before", "test", None),
        ("runs/f", "test", "runs/f-before/test"),
    ]
    same = {(option(c, "--data"), option(c, "--limit"), option(c, "--sampling")) for c in evaluations}
    assert same == {("configs/data/demo.yaml", "9", "num_steps=10")}


def test_both_kinds_lie_in_one_folder_of_which_the_features_are(commands: list[list[str]], tmp_path: Path) -> None:
    assert sorted(file.name for file in (tmp_path / "mixed").iterdir()) == ["others-00000.tar", "outline-00000.tar"]
    cached = next(command for command in commands if "mmig.cache" in command)
    assert option(cached, "--data.init_args.train") == str(tmp_path / "mixed")
    assert option(cached, "--out") == str(tmp_path / "features")


def test_nothing_moves_before_and_both_train_on_the_same(commands: list[list[str]], tmp_path: Path) -> None:
    before, after = (command for command in commands if command[0] == "train.py")
    assert option(before, "--model.init_args.optimizer.lr") == "0" and "--model.init_args.optimizer.lr" not in after
    for command in (before, after):
        assert option(command, "--data.init_args.train") == str(tmp_path / "mixed")
        assert option(command, "--data.init_args.features") == str(tmp_path / "features")


def test_outline_edits_that_are_trained_on_are_not_those_that_are_tested_on() -> None:
    split, seed = finetune_demo.WORLD["outline"]
    trained = {make_sample(seed, split, index)["source"].tobytes() for index in range(20)}
    tested = {make_sample(0, "outline", index)["source"].tobytes() for index in range(20)}
    assert seed != 0 and not trained & tested
