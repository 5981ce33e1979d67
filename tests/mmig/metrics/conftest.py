from pathlib import Path

import pytest

from mmig.metrics.clip_encoder import ClipEncoder
from tests.mmig.metrics.support import tiny_encoder


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ClipEncoder:
    return tiny_encoder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.tiny_fixtures import build_open_clip

    return build_open_clip(tmp_path_factory.mktemp("open_clip"))
