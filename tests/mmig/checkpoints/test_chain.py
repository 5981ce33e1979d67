"""From stage to stage with --init_from: what a new run must find, and what every later checkpoint keeps."""

from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

from mmig.checkpoints.checkpoint import CheckpointError, init_weights, load_module, read_checkpoint
from mmig.run.cli import main
from tests.toy import ToyModule, ToyStage, fit

BACKBONE = "backbone.weight"


def trained_backbone(directory: Path) -> Tensor:
    """Fit a stage that trains the backbone; returns the averaged backbone, with which the next stage starts."""
    fit(ToyStage(train_backbone=True), directory, 4)
    return read_checkpoint(directory)["ema"]["weights"][BACKBONE]


def test_a_backbone_of_an_earlier_stage_stays_in_every_later_checkpoint(tmp_path: Path) -> None:
    expected = trained_backbone(tmp_path / "first")
    assert not torch.equal(expected, torch.eye(3))
    second = ToyStage(new=True)
    init_weights(second, read_checkpoint(tmp_path / "first"))
    fit(second, tmp_path / "second", 2)
    fit(ToyStage(new=True), tmp_path / "second", 4, resume=tmp_path / "second" / "step-00000002.ckpt")
    third = ToyStage(new=True)
    init_weights(third, read_checkpoint(tmp_path / "second"))
    fit(third, tmp_path / "third", 2)
    for checkpoint in ("second/step-00000002.ckpt", "second/step-00000004.ckpt", "third/step-00000002.ckpt"):
        stored = read_checkpoint(tmp_path / checkpoint)
        assert torch.equal(stored["state_dict"][BACKBONE], expected), checkpoint
        assert BACKBONE not in stored["ema"]["weights"]
    assert torch.equal(third.backbone.weight, expected)


def test_a_backbone_that_no_stage_trained_is_never_stored(tmp_path: Path) -> None:
    fit(ToyStage(), tmp_path / "first", 1)
    second = ToyStage(new=True)
    init_weights(second, read_checkpoint(tmp_path / "first"))
    assert second.stored_names() == set(second.state_dict()) - {BACKBONE}


def test_trained_weights_that_no_earlier_stage_brought_are_named(tmp_path: Path) -> None:
    fit(ToyModule(), tmp_path, 1)
    checkpoint = read_checkpoint(tmp_path)
    module = ToyStage(train_backbone=True, new=True)
    module.extra = nn.Linear(2, 2)
    with pytest.raises(
        CheckpointError, match=r"lacks 2 of .* ToyStage trains, extra\.weight first.*\(head\)"
    ) as caught:
        init_weights(module, checkpoint)
    assert "\n" not in str(caught.value)
    module.extra.requires_grad_(False)
    init_weights(module, checkpoint)  # the backbone is pretrained, the head is new
    assert torch.equal(module.net[0].weight, checkpoint["ema"]["weights"]["net.0.weight"])


def test_a_new_part_comes_whole_or_not_at_all(tmp_path: Path) -> None:
    fit(ToyStage(new=True), tmp_path, 1)
    checkpoint, module = read_checkpoint(tmp_path), ToyStage(new=True)
    init_weights(module, checkpoint)
    assert torch.equal(module.head.weight, checkpoint["ema"]["weights"]["head.weight"])
    for weights in (checkpoint["state_dict"], checkpoint["ema"]["weights"]):
        del weights["head.bias"]
    with pytest.raises(CheckpointError, match=r"holds 1 of the 2 trained weights of head \(not head\.bias\)"):
        init_weights(ToyStage(new=True), checkpoint)


# What a user sees ------------------------------------------------------------------------------------------------


def train(folder: Path, name: str, model: str, *options: str) -> str:
    """`train.py fit` in this process for 2 steps; returns its last word, or "" where it succeeded."""
    trainer = {"accelerator": "cpu", "devices": 1, "max_steps": 2, "logger": False, "enable_progress_bar": False}
    config = {
        "model": {"class_path": f"tests.toy.{model}"},
        "data": {"class_path": "tests.toy.ToyData"},
        "trainer": trainer,
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    try:
        main(["fit", "--config", str(file), "--name", name, "--runs", str(folder / "runs"), *options])
    except SystemExit as stop:
        return str(stop.code)
    return ""


def test_resuming_from_another_stage_is_sent_to_init_from(tmp_path: Path) -> None:
    assert train(tmp_path, "two", "ToyModule") == ""
    two = tmp_path / "runs" / "two"
    refusal = train(tmp_path, "five", "ToyStage", "--model.new", "true", "--resume", str(two))
    assert refusal.startswith("error: ") and "\n" not in refusal and "--init_from" in refusal
    assert "tests.toy.ToyModule" in refusal and "tests.toy.ToyStage" in refusal
    (two / "config.yaml").unlink()  # a checkpoint on its own has its settings in it
    assert train(tmp_path, "five", "ToyStage", "--model.new", "true", "--resume", str(two)) == refusal
    assert train(tmp_path, "five", "ToyStage", "--model.new", "true", "--init_from", str(two)) == ""
    stage = load_module(tmp_path / "runs" / "five")
    assert stage.step == 2 and isinstance(stage, ToyStage)


def test_what_this_stage_does_without_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path, "first", "ToyStage", "--model.new", "true") == ""
    first = str(tmp_path / "runs" / "first")
    refusal = train(tmp_path, "second", "ToyStage", "--init_from", first)
    assert refusal.startswith("error: --init_from: head.") and refusal.endswith("(no such weight)")
    monkeypatch.setattr(ToyStage, "absent_parts", ("head",))
    assert train(tmp_path, "second", "ToyStage", "--init_from", first) == ""
    assert f"warning: --init_from {first}: 2 weights are left out of this run" in capsys.readouterr().err
    assert "head.weight" not in read_checkpoint(tmp_path / "runs" / "second")["state_dict"]


def test_fresh_parts_that_nothing_trains_need_an_earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(tmp_path, "first", "ToyStage") == ""
    monkeypatch.setattr(ToyStage, "unlearnt_parts", ("body",))
    refusal = train(tmp_path, "second", "ToyStage")
    assert (
        refusal.startswith("error: ToyStage freezes body, whose weights are fresh: name a run") and "\n" not in refusal
    )
    assert train(tmp_path, "second", "ToyStage", "--init_from", str(tmp_path / "runs" / "first")) == ""


def test_resuming_another_run_with_other_settings_is_refused(tmp_path: Path) -> None:
    assert train(tmp_path, "first", "ToyStage") == ""
    first = str(tmp_path / "runs" / "first")
    refusal = train(tmp_path, "second", "ToyStage", "--resume", first, "--model.train_backbone", "true")
    assert "model.init_args.train_backbone: False -> True" in refusal and "--init_from" in refusal


def test_a_group_that_trains_nothing_ends_in_one_line(tmp_path: Path) -> None:
    refusal = train(tmp_path, "run", "ToyStage", "--model.optimizer.groups", '{"backbone": {"lr": 1e-5}}')
    assert refusal.startswith("error: optimizer.groups: 'backbone' gets no trainable parameter; this run trains 4")
    assert "\n" not in refusal


def test_an_evaluated_run_keeps_its_carried_backbone(tmp_path: Path) -> None:
    expected = trained_backbone(tmp_path / "first")
    assert train(tmp_path, "second", "ToyStage", "--init_from", str(tmp_path / "first")) == ""
    module = load_module(tmp_path / "runs" / "second")
    assert torch.equal(module.backbone.weight, expected)
    assert BACKBONE in module.stored_names()
