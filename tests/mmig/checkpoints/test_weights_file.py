"""A run's weights as one safetensors file: everything that is needed, nothing that a run could be continued from."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mmig.checkpoints.checkpoint import (
    CheckpointError,
    checkpoint_weights,
    init_weights,
    load_module,
    read_checkpoint,
    read_start,
)
from mmig.checkpoints.files import write_file
from mmig.checkpoints.weights_file import write_weights
from mmig.run.export import ExportError, export_weights
from tests.toy import ToyModule, fit

CONFIG = {"model": {"class_path": "tests.toy.ToyModule", "init_args": {"optimizer": {"lr": 0.01}}}}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that lies alone and says what it is."""
    folder = tmp_path_factory.mktemp("weights")
    fit(ToyModule(), folder, 3)
    values = read_checkpoint(folder)
    write_file({**values, "manifest": {"name": "toy", "config": CONFIG}}, folder / "alone.ckpt")
    return folder / "alone.ckpt"


@pytest.mark.parametrize("ema", [True, False])
def test_a_new_run_starts_from_the_file(checkpoint: Path, tmp_path: Path, ema: bool) -> None:
    file = export_weights(checkpoint, tmp_path / "toy.safetensors", ema)
    started, expected = ToyModule(), checkpoint_weights(read_checkpoint(checkpoint), ema)
    init_weights(started, read_checkpoint(file))
    assert all(torch.equal(value, expected[name]) for name, value in started.state_dict().items())
    assert read_checkpoint(file)["averaged"] == ema


def test_the_file_alone_gives_the_module(checkpoint: Path, tmp_path: Path) -> None:
    file = export_weights(checkpoint, tmp_path / "toy.safetensors")
    found, expected = load_module(file), load_module(checkpoint)
    assert found.step == 3 and type(found) is type(expected)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())
    assert "optimizer_states" not in read_checkpoint(file)


def test_a_damaged_or_foreign_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    file = export_weights(checkpoint, tmp_path / "toy.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for path, found in (
        (file, "cannot read checkpoint"),
        (tmp_path / "other.safetensors", "of something else"),
    ):
        with pytest.raises(CheckpointError, match=found) as caught:
            read_checkpoint(path)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_failed_export_leaves_nothing_and_nothing_is_overwritten(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "there.safetensors").touch()
    with pytest.raises(ExportError, match="exists already"):
        export_weights(checkpoint, tmp_path / "there.safetensors")
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        export_weights(tmp_path / "nowhere", tmp_path / "new.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["there.safetensors"]


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("pytorch_lora_weights.safetensors", "unet.down_blocks.0.attentions.0.to_q.lora_A.weight"),
        ("adapter_model.safetensors", "base_model.model.layers.0.q_proj.lora_B.weight"),
        ("style.safetensors", "lora_unet_down_blocks_0_attentions_0_to_q.lora_up.weight"),
    ],
)
def test_low_rank_updates_of_other_programs_are_told_apart(tmp_path: Path, name: str, key: str) -> None:
    save_file({key: torch.zeros(2, 2)}, tmp_path / name)
    given = [tmp_path / name] + ([tmp_path] if name != "style.safetensors" else [])
    for path in given:
        with pytest.raises(CheckpointError, match=r"holds low-rank updates \(LoRA\) of another program.*merge them"):
            read_start(ToyModule(), path)


def test_a_file_of_ours_may_hold_low_rank_updates(tmp_path: Path) -> None:
    facts = {"step": 3, "backbones": {}}
    write_weights(tmp_path / "own.safetensors", {"unet.to_q.lora_A.default.weight": torch.zeros(2, 2)}, facts)
    assert read_checkpoint(tmp_path / "own.safetensors")["step"] == 3
