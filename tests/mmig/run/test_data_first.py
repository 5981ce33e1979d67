"""train.py builds the data before the model, and ends before it is built where nothing could train."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmig.run.cli import MMIGCLI, main
from mmig.run.data_first import is_first_process
from mmig.training.module import TrainingModule
from tests.mmig.evaluation.support import CopyModule, random_samples, write_data

BUILT: list[str] = []


class Told(CopyModule):
    """Tells that it is built."""

    def __init__(self, **settings: Any) -> None:
        BUILT.append("model")
        super().__init__(**settings)


class Needy(Told):
    """Trains on responses, which the data do not have."""

    needed_fields = ("target", "response")


@pytest.fixture
def options(tmp_path: Path) -> Callable[[type[TrainingModule]], list[str]]:
    """Options of train.py for a module."""
    BUILT.clear()
    data = write_data(tmp_path, random_samples(6), "train", global_batch_size=2)

    def of(module: type[TrainingModule]) -> list[str]:
        quiet = {"accelerator": "cpu", "max_steps": 1, "logger": False, "enable_progress_bar": False}
        config = {"model": {"class_path": f"{module.__module__}.{module.__name__}"}, "trainer": quiet}
        (tmp_path / "model.yaml").write_text(yaml.safe_dump(config))
        given = ["--config", str(tmp_path / "model.yaml"), "--config", str(data)]
        return ["fit", *given, "--name", "run", "--runs", str(tmp_path / "runs")]

    return of


def test_a_run_says_one_line_about_its_data_and_trains(
    options: Callable[..., list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    cli = MMIGCLI(options(Told))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("data: ")]
    assert len(lines) == 1 and "6 of 6 samples" in lines[0]
    assert BUILT == ["model"] and cli.model.step == 1


def test_data_without_what_the_method_needs_end_it_before_the_model_is_built(
    options: Callable[..., list[str]], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*none of 6 samples read has the field response"):
        main(options(Needy))
    assert BUILT == [] and not (tmp_path / "runs").exists()


def test_data_of_which_nothing_can_be_read_end_it_before_the_model_is_built(
    options: Callable[..., list[str]], tmp_path: Path
) -> None:
    given = options(Told)
    for tar in (tmp_path / "train").glob("*.tar"):
        tar.write_bytes(b"x" * tar.stat().st_size)
    with pytest.raises(SystemExit, match=r"^error: .*none of 6 samples read can be used \(checksum 6"):
        main(given)
    assert BUILT == []


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_the_first_rank_is_known_before_ranks_meet(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for other in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(other, raising=False)
    assert is_first_process()
    monkeypatch.setenv(name, "1")
    assert not is_first_process()
