"""A tiny MGIE in the released layout and a pipeline for it, written once."""

import pytest

from tests.tiny_fixtures import build_stable_diffusion
from tests.tiny_mgie_released import Released, build_released


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Released:
    return build_released(tmp_path_factory.mktemp("released"))


@pytest.fixture(scope="session")
def diffusion(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_stable_diffusion(tmp_path_factory.mktemp("tiny") / "stable-diffusion"))
