"""Every argument of Lightning's Trainer is obeyed, refused in one line, or said to be without effect."""

import inspect
import re
from pathlib import Path
from typing import Any

import lightning as L
import pytest
from lightning.pytorch.strategies import ModelParallelStrategy

from mmig.run.cli import TRAINER_DEFAULTS, main
from mmig.run.trainer_words import WORDS, TrainerSettingError, check_built, check_trainer
from mmig.training.fsdp import FSDP2Strategy

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "trainer.md"
SIGNATURE = {
    name: parameter.default
    for name, parameter in inspect.signature(L.Trainer.__init__).parameters.items()
    if name != "self"
}
REFUSED: dict[str, Any] = {
    "min_epochs": 1,
    "limit_train_batches": 1,
    "overfit_batches": 1,
    "enable_checkpointing": False,
    "accumulate_grad_batches": 2,
    "gradient_clip_val": 1.0,
    "gradient_clip_algorithm": "value",
    "barebones": True,
    "reload_dataloaders_every_n_epochs": 1,
    "default_root_dir": "elsewhere",
    "model_registry": "name",
}
"""A value of each argument that is refused."""


def test_no_argument_of_lightning_is_left_undecided() -> None:
    assert list(WORDS) == list(SIGNATURE)


def test_the_document_has_the_same_table() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(name, word.kind, word.says) for name, word in WORDS.items()]


def test_what_asks_for_nothing_is_taken() -> None:
    check_trainer(SIGNATURE)
    check_trainer(SIGNATURE | TRAINER_DEFAULTS | {"limit_train_batches": 1.0, "overfit_batches": 0})


def test_each_refused_argument_is_tried() -> None:
    assert list(REFUSED) == [name for name, word in WORDS.items() if word.kind == "refused"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_named_with_what_to_do_instead(name: str) -> None:
    with pytest.raises(TrainerSettingError) as caught:
        check_trainer({name: REFUSED[name]})
    assert str(caught.value) == f"trainer.{name}: expected it left out, found {REFUSED[name]}; {WORDS[name].says}"


@pytest.mark.parametrize(
    ("precision", "taken"),
    [(None, True), (32, True), ("bf16", True), ("bf16-mixed", True), ("32-true", True), ("auto", True)]
    + [(name, False) for name in ("bf16-true", "16-mixed", 16, "16-true", "64-true", 64, "transformer-engine")],
)
def test_precisions_in_which_runs_learn_are_taken(precision: Any, taken: bool) -> None:
    if taken:
        check_trainer({"precision": precision})
    else:
        with pytest.raises(TrainerSettingError, match=f"expected 32-true or bf16-mixed or auto, found {precision}"):
            check_trainer({"precision": precision})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"val_check_interval": 0.5}, "expected a number of steps, found 0.5"),
        ({"val_check_interval": "00:00:10:00"}, "expected a number of steps, found 00:00:10:00"),
        ({"val_check_interval": 5, "check_val_every_n_epoch": 1}, "found 5 beside .* 1; give one"),
        ({"check_val_every_n_epoch": 0}, "expected at least 1, found 0"),
        ({"plugins": [{"class_path": "lightning.pytorch.plugins.HalfPrecision"}]}, "trainer.plugins: expected an"),
        ({"plugins": {"class_path": "lightning.pytorch.plugins.TorchCheckpointIO"}}, "trainer.plugins: expected an"),
    ],
)
def test_values_that_would_not_be_obeyed_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainerSettingError, match=message):
        check_trainer(settings)


def test_environments_of_clusters_are_taken() -> None:
    check_trainer({"plugins": [{"class_path": "lightning.pytorch.plugins.environments.LightningEnvironment"}]})


def test_strategies_that_runs_were_never_tried_under_are_refused() -> None:
    check_built(L.Trainer(accelerator="cpu", logger=False), False)
    check_built(L.Trainer(accelerator="cpu", logger=False, strategy="ddp"), True)
    other = L.Trainer(accelerator="cpu", devices=2, logger=False, strategy=ModelParallelStrategy())
    with pytest.raises(TrainerSettingError, match=r"expected auto, ddp or fsdp2 .*, found ModelParallelStrategy"):
        check_built(other, False)
    sharded = L.Trainer(accelerator="cpu", devices=2, logger=False, strategy=FSDP2Strategy())
    check_built(sharded, False)
    with pytest.raises(TrainerSettingError, match="sync_batchnorm: expected False under fsdp2, found True"):
        check_built(sharded, True)


def test_the_program_says_it_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMIG_TRACEBACK", raising=False)
    options = ["--config", "configs/demo/stage1.yaml", "--name", "x", "--runs", str(tmp_path)]
    with pytest.raises(SystemExit) as end:
        main(["fit", *options, "--trainer.overfit_batches", "1"])
    assert str(end.value.code).startswith("error: trainer.overfit_batches: expected it left out, found 1; ")
    assert list(tmp_path.iterdir()) == []
