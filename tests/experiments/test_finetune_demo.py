"""The fine-tuning demo: what it trains on is not what it tests on, and before and after see the same edits."""

from pathlib import Path

import pytest
import yaml

from datamodules.tinyworld.sample import make_sample
from experiments import finetune_demo


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


def test_before_and_after_are_evaluated_on_the_same_edits_and_compared(
    commands: list[list[str]], tmp_path: Path
) -> None:
    evaluations = [command for command in commands if command[0] == "evaluate.py"]
    names, before = ("--config", "--checkpoint", "--split", "--out", "--compare"), str(tmp_path / "before.yaml")
    assert [tuple(option(command, name) for name in names) for command in evaluations] == [
        (before, None, "outline_test", "runs/f-before/outline_test", None),
        (None, "runs/f", "outline_test", "runs/f/outline_test", "runs/f-before/outline_test"),
        (before, None, "test", "runs/f-before/test", None),
        (None, "runs/f", "test", "runs/f/test", "runs/f-before/test"),
    ]
    same = {(option(c, "--data"), option(c, "--limit"), option(c, "--sampling")) for c in evaluations}
    assert same == {("configs/data/finetune.yaml", "9", "num_steps=10")}


def test_all_kinds_lie_in_one_folder_of_which_the_features_are(commands: list[list[str]], tmp_path: Path) -> None:
    kinds = ("others", "outline", "removals")
    assert sorted(file.name for file in (tmp_path / "mixed").iterdir()) == [f"{kind}-00000.tar" for kind in kinds]
    cached = next(command for command in commands if "mmig.run.cache" in command)
    assert option(cached, "--data.init_args.train") == str(tmp_path / "mixed")
    assert option(cached, "--out") == str(tmp_path / "features")


def test_decoder_and_denoiser_train_on_the_same(commands: list[list[str]], tmp_path: Path) -> None:
    decoder, after = (command for command in commands if command[0] == "train.py")
    assert {option(c, "--data.init_args.train") for c in (decoder, after)} == {str(tmp_path / "mixed")}
    assert option(after, "--data.init_args.features") == str(tmp_path / "features")


def test_before_is_the_trained_module_without_training_and_with_the_old_decoder(
    commands: list[list[str]], root: Path, tmp_path: Path
) -> None:
    before, after = (
        yaml.safe_load(path.read_text(encoding="utf-8"))["model"]
        for path in (tmp_path / "before.yaml", root / finetune_demo.CONFIG)
    )
    assert before["init_args"]["backbones"].pop("vae") == "assets/tiny/stable-diffusion"
    assert after["init_args"]["backbones"].pop("vae") == "data/finetune/decoder"
    assert before == after


def test_the_new_decoder_is_the_trained_denoisers_alone(commands: list[list[str]], tmp_path: Path) -> None:
    exported = next(command for command in commands if "mmig.run.export" in command)
    assert "runs/f-decoder" in exported and option(exported, "--out") == str(tmp_path / "decoder")
    _, after = (command for command in commands if command[0] == "train.py")
    cached = next(command for command in commands if "mmig.run.cache" in command)
    vae = "--model.init_args.backbones.vae"
    assert option(cached, vae) == option(after, vae) == str(tmp_path / "decoder")


def test_outline_edits_that_are_trained_on_are_not_those_that_are_tested_on(root: Path) -> None:
    split, seed, _ = finetune_demo.WORLD["outline"]
    data = yaml.safe_load((root / "configs/data/finetune.yaml").read_text(encoding="utf-8"))["data"]["init_args"]
    trained = {make_sample(seed, split, index)["source"].tobytes() for index in range(20)}
    tested = {make_sample(data["world_seed"], "outline_test", index)["source"].tobytes() for index in range(20)}
    assert seed != data["world_seed"] and not trained & tested
