"""`trainer.precision`: what "auto" stands for, and how products run in each precision."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.accelerators import Accelerator, CPUAccelerator, CUDAAccelerator

from mmig.run import precision
from mmig.run.precision import Trainer, chosen_precision, suit_products
from mmig.run.resume import ResumeError, check_resumable
from tests.mmig.run.parsed import Parsed

CONFIG = ["fit", "--config", "configs/demo/stage1.yaml", "--name", "x", "--trainer.precision", "auto"]
FLASH = "aten::_scaled_dot_product_flash_attention_for_cpu"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Exact products in float32, before and afterwards."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    yield
    torch.set_float32_matmul_precision(before)
    suit_products(trainer_of(CPUAccelerator, "32-true"))


def trainer_of(accelerator: type[Accelerator], name: str) -> Any:
    return SimpleNamespace(accelerator=accelerator(), precision=name)


def multiplies(monkeypatch: pytest.MonkeyPatch, answer: bool) -> None:
    """Let this machine be one with or without products of bfloat16, and without a GPU."""
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: answer)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("accelerator", "name", "expected"),
    [
        (CUDAAccelerator, "bf16-mixed", "high"),
        (CUDAAccelerator, "32-true", "highest"),
        (CPUAccelerator, "bf16-mixed", "highest"),
    ],
)
def test_tf32_is_for_mixed_precision_on_gpus_alone(accelerator: type[Accelerator], name: str, expected: str) -> None:
    suit_products(trainer_of(accelerator, name))
    assert torch.get_float32_matmul_precision() == expected


@pytest.mark.parametrize(
    ("name", "dtype", "flash"), [("bf16-mixed", torch.bfloat16, False), ("32-true", torch.float32, True)]
)
def test_attention_on_a_cpu_is_two_products_in_mixed_precision_alone(
    name: str, dtype: torch.dtype, flash: bool
) -> None:
    suit_products(trainer_of(CPUAccelerator, name))
    query, key, value = (torch.randn(2, 4, 64, 48, dtype=dtype) for _ in range(3))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        given = F.scaled_dot_product_attention(query, key, value)
    events = profile.key_averages()
    assert (FLASH in {event.key for event in events}) == flash
    assert all(event.key != "aten::to" or event.count < 8 for event in events)  # no detour over float32
    wide = [tensor.double() for tensor in (query, key, value)]
    expected = torch.softmax(wide[0] @ wide[1].mT / 48**0.5, dim=-1) @ wide[2]
    torch.testing.assert_close(given.double(), expected, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("accelerator", "products", "expected"),
    [
        ("cpu", True, "bf16-mixed"),
        ("cpu", False, "32-true"),
        ("auto", True, "bf16-mixed"),
        (CPUAccelerator(), True, "bf16-mixed"),
        ("mps", True, "32-true"),
        ("gpu", True, "32-true"),  # there is none
    ],
)
def test_auto_asks_the_processor(
    monkeypatch: pytest.MonkeyPatch, accelerator: Any, products: bool, expected: str
) -> None:
    multiplies(monkeypatch, products)
    assert chosen_precision(accelerator) == expected


@pytest.mark.parametrize(("supported", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "auto"])
def test_auto_asks_the_gpu(monkeypatch: pytest.MonkeyPatch, accelerator: str, supported: bool, expected: str) -> None:
    multiplies(monkeypatch, not supported)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: supported)
    assert chosen_precision(accelerator) == expected


@pytest.mark.parametrize(
    ("units", "instructions", "slower", "expected"),
    [(True, True, True, True), (False, True, False, True), (False, True, True, False), (False, False, False, False)],
)
def test_a_processor_with_instructions_alone_is_timed(
    monkeypatch: pytest.MonkeyPatch, units: bool, instructions: bool, slower: bool, expected: bool
) -> None:
    def seconds(matrix: torch.Tensor) -> float:
        return 1.0 + (slower - 0.5) * (matrix.dtype == torch.bfloat16)

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: units)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    monkeypatch.setattr(precision, "product_seconds", seconds)
    assert precision.multiplies_bfloat16.__wrapped__() is expected


def test_timing_a_processor_draws_nothing() -> None:
    before = torch.get_rng_state()
    precision.multiplies_bfloat16.__wrapped__()
    assert precision.product_seconds(torch.ones(64, 64)) > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("products", "expected"), [(True, "bf16-mixed"), (False, "32-true")])
def test_a_run_notes_what_auto_stood_for(monkeypatch: pytest.MonkeyPatch, products: bool, expected: str) -> None:
    multiplies(monkeypatch, products)
    assert Parsed(CONFIG).resolved_config()["trainer"]["precision"] == expected


def test_auto_needs_no_accelerator_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(Path(CONFIG[2]).read_text(encoding="utf-8"))
    config["trainer"] = {"precision": "auto"}
    (tmp_path / "bare.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    multiplies(monkeypatch, True)
    trainer = Parsed(["fit", "--config", str(tmp_path / "bare.yaml"), "--name", "x"]).resolved_config()["trainer"]
    assert (trainer["accelerator"], trainer["precision"]) == ("auto", "bf16-mixed")


def test_a_run_is_not_continued_in_another_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplies(monkeypatch, True)
    before = Parsed(CONFIG).resolved_config()
    multiplies(monkeypatch, False)
    with pytest.raises(ResumeError, match=r"trainer\.precision: 'bf16-mixed' -> '32-true'"):
        check_resumable(before, Parsed(CONFIG).resolved_config())


def test_the_trainer_takes_auto_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplies(monkeypatch, True)
    assert Trainer(accelerator="cpu", precision="auto", logger=False).precision == "bf16-mixed"
