"""Settings on the command line: nested ones, backbones as strings or mappings, null; what is mistyped."""

from typing import Any

import pytest

from mmig.run.cache import CacheCLI
from mmig.run.cli import MMIGCLI
from mmig.run.manifest import RunFolderError

DATA = ["--config", "configs/data/demo.yaml", "--out", "out", "--name", "name"]


class Parsed(CacheCLI):
    """Parses, and builds nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""


def arguments(config: str, *options: str) -> Any:
    return Parsed(["--config", config, *DATA, *options]).config.model.init_args


@pytest.mark.parametrize("null", ["null", "~", "NULL"])
def test_null_on_the_command_line_is_null(null: str) -> None:
    found = arguments("configs/demo/stage2.yaml", "--model.init_args.backbones.unet", null).backbones
    assert found.unet is None
    assert found.diffusion == "assets/tiny/stable-diffusion"  # what stands beside it stays


def test_a_backbone_is_a_path_or_a_mapping() -> None:
    option = "--model.init_args.backbones.unet"
    assert arguments("configs/demo/stage2.yaml", option, "owner/unet").backbones.unet == "owner/unet"
    named = arguments("configs/demo/stage2.yaml", f"{option}.path", "owner/unet", f"{option}.part", "unet").backbones
    assert named.unet.as_dict() == {"path": "owner/unet", "part": "unet"}
    assert arguments("configs/demo/instruct_pix2pix.yaml", "--model.init_args.unet.path", "a/b").unet.path == "a/b"
    sizes = arguments("configs/demo/instruct_pix2pix.yaml", "--model.init_args.unet", "{block_out_channels: [32]}")
    assert sizes.unet.block_out_channels == [32]


CONFIG = ["--config", "configs/demo/stage1.yaml", "--name", "name"]


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The line in which train.py refuses a command."""
    with pytest.raises(SystemExit) as end:
        MMIGCLI(list(words))
    assert end.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--trainer.max_step", "--trainer.max_steps"),
        ("--trainer.maxsteps", "--trainer.max_steps"),
        ("--trainr.max_steps", "--trainer.max_steps"),
        ("--max-steps", "--trainer.max_steps"),
        ("--init-from", "--init_from"),
        ("--checkpoint.every", "--checkpoint.every_n_steps"),
    ],
)
def test_options_are_taken_by_their_whole_names(option: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([option, "3"], [f"{option}=3"]):
        assert refused(capsys, "fit", *CONFIG, *words) == f"unknown option {option} (did you mean {meant}?)"


def test_settings_of_a_class_are_taken_by_their_whole_names(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "fit", *CONFIG, "--model.init_args.micro_batch", "3")
    assert "Option 'micro_batch' is not accepted; it has" in line and "micro_batch_size" in line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit"], ["no data and no model: give a --config FILE", "python train.py fit --config"]),
        (["fit", "--config", "configs/data/demo.yaml"], ["no model: give a --config FILE"]),
        (CONFIG, ["expected fit, validate, test, predict after train.py, found no command; python train.py fit"]),
        (["fti", *CONFIG], ["found 'fti' (did you mean fit?)"]),
        (["fit", *CONFIG, "--trainer.precision", "fp16"], ["expected 32-true or bf16-mixed or auto, found fp16"]),
        (["fit", *CONFIG, "--data", "assets"], ["found the folder assets; --config", "--data.init_args.train assets"]),
        (["fit", *CONFIG, "--model", "stage1"], ["--model: expected a section with class_path", "found stage1;"]),
    ],
)
def test_first_mistakes_are_told_what_to_type(
    words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *words)
    assert [part for part in parts if part not in line] == [], line


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/a"])
def test_a_run_has_a_name_of_one_folder(name: str) -> None:
    with pytest.raises(RunFolderError, match="expected the name of one folder"):
        MMIGCLI(["fit", *CONFIG[:2], "--name", name])
