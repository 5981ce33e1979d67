"""Opening checkpoints: what is missing, broken or foreign is named."""

import pickle
from pathlib import Path

import pytest
import torch

from mmig.checkpoints.checkpoint import (
    CheckpointError,
    build_module,
    find_checkpoint,
    init_weights,
    read_checkpoint,
    run_directory,
)
from tests.toy import ToyModule, fit


def test_newest_checkpoint_of_a_run_is_found(tmp_path: Path) -> None:
    fit(ToyModule(), tmp_path / "checkpoints", 4, every_n_steps=2)
    assert find_checkpoint(tmp_path).name == "step-00000004.ckpt"


def test_half_written_checkpoint_is_never_chosen(tmp_path: Path) -> None:
    (tmp_path / "step-00000009.partial").write_bytes(b"half")
    (tmp_path / "step-00000008.ckpt").write_bytes(b"whole")
    assert find_checkpoint(tmp_path).name == "step-00000008.ckpt"


def test_missing_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*nowhere"):
        find_checkpoint(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"no config\.yaml"):
        run_directory(tmp_path)


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_truncated_checkpoint_is_one_clear_line(tmp_path: Path, kept: int) -> None:
    fit(ToyModule(), tmp_path, 1)
    file = find_checkpoint(tmp_path)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"cannot read checkpoint .*step-00000001\.ckpt") as caught:
        read_checkpoint(file)
    assert "\n" not in str(caught.value)


def test_pickled_code_is_not_executed(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "executed",)

    file = tmp_path / "step-00000001.ckpt"
    torch.save({"state_dict": Payload(), "step": 1}, file, pickle_module=pickle)
    with pytest.raises(CheckpointError):
        read_checkpoint(file)
    assert not (tmp_path / "executed").exists()


def test_foreign_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": {}}, file)
    with pytest.raises(CheckpointError, match="has no entry 'step'"):
        read_checkpoint(file)


def test_initial_weights_are_the_averaged_ones(tmp_path: Path) -> None:
    fit(ToyModule(), tmp_path, 5)
    checkpoint, module = read_checkpoint(tmp_path), ToyModule()
    init_weights(module, checkpoint)
    for name, value in checkpoint["ema"]["weights"].items():
        assert torch.equal(module.state_dict()[name], value)
    assert module.step == 0


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    fit(ToyModule(), tmp_path, 1)
    module = ToyModule()
    module.net[0] = torch.nn.Linear(4, 8)
    with pytest.raises(CheckpointError, match=r"net\.0\.weight \[8, 3\] does not fit ToyModule \(shape \[8, 4\]\)"):
        init_weights(module, read_checkpoint(tmp_path))


def test_a_setting_that_this_code_does_not_have_is_named() -> None:
    settings = {"optimizer": {"lr": 1e-3}, "renamed": 1}
    with pytest.raises(
        CheckpointError, match=r"config\.yaml .*'renamed' is not accepted; it has optimizer, "
    ) as caught:
        build_module({"model": {"class_path": "tests.toy.ToyModule", "init_args": settings}})
    assert "\n" not in str(caught.value)
