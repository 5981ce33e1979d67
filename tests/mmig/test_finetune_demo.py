"""The fine-tuning demo: what it trains on is not what it tests on, and before and after see the same edits."""

import pytest
import yaml

from datamodules.tinyworld.sample import make_sample
from mmig import finetune_demo


def option(command: list[str], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would run."""
    found: list[list[str]] = []
    monkeypatch.setattr(finetune_demo, "run", lambda title, *command: found.append([*command]))
    finetune_demo.main(["--name", "f", "--root", "r", "--limit", "9", "--sampling", "num_steps=10"])
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


def test_nothing_moves_before_and_the_sources_are_those_of_the_configuration(commands: list[list[str]]) -> None:
    before, after = (command for command in commands if command[0] == "train.py")
    assert option(before, "--model.init_args.optimizer.lr") == "0" and "--model.init_args.optimizer.lr" not in after
    given = [yaml.safe_load(option(command, "--data.init_args.train")) for command in (before, after)]
    with open(finetune_demo.CONFIG, encoding="utf-8") as file:
        own = yaml.safe_load(file)["data"]["init_args"]["train"]
    assert given[0] == given[1] == [source | {"path": source["path"].replace("data/finetune", "r")} for source in own]


def test_outline_edits_that_are_trained_on_are_not_those_that_are_tested_on() -> None:
    split, seed, _ = finetune_demo.WORLD["outline"]
    trained = {make_sample(seed, split, index)["source"].tobytes() for index in range(20)}
    tested = {make_sample(0, "outline", index)["source"].tobytes() for index in range(20)}
    assert seed != 0 and not trained & tested
