"""`python -m experiments.tiny_backbones`: its commands name what exists, in an order that works."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from experiments.tiny_backbones.__main__ import _is_drawn, commands, main

ROOT = Path(__file__).parents[3]


def test_every_module_and_config_exists():
    for command in (command for steps in commands().values() for command in steps):
        if command[0] == "-m":
            assert find_spec(command[1]) is not None
        else:
            assert (ROOT / command[0]).is_file()
        for argument in command:
            if argument.startswith("configs/"):
                assert (ROOT / argument).is_file()


def test_each_part_comes_behind_those_it_needs():
    order = list(commands())
    needs = {
        "clip": ["tokenizers"],
        "clip-eval": ["tokenizers"],
        "lm": ["tokenizers"],
        "drawing": ["vae", "clip"],
        "editing": ["drawing"],
        "llava": ["tokenizers"],
        "captioner": ["clip"],
    }
    for part, earlier in needs.items():
        assert all(order.index(other) < order.index(part) for other in earlier)


def test_list_runs_nothing(capsys: pytest.CaptureFixture[str]):
    main(["--only", "lm", "--list"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "python train.py fit --config configs/tiny/lm.yaml --name tiny-lm"
    assert lines == [f"python {' '.join(command)}" for command in commands()["lm"]]


def test_samples_that_are_there_are_not_drawn_again(tmp_path: Path):
    (tmp_path / "index.json").write_text("{}")
    draw = ["-m", "datamodules.tinyworld", "--count", "20", "--out"]
    assert _is_drawn([*draw, str(tmp_path)]) and not _is_drawn([*draw, str(tmp_path / "other")])
    assert not any(_is_drawn(command) for command in commands()["lm"])
