"""Parts that only some pipelines have: whether one of the hub does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mmig.backbones.hub_server import serve
from tests.tiny_fixtures import TinyBackbones
from tests.tiny_flux import build_flux_kontext
from tests.tiny_sdxl import build_sdxl

REPOSITORY = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("build", "name", "part"), [(build_flux_kontext, "flux", "T5_ENCODER"), (build_sdxl, "sdxl", "SDXL_TEXT_ENCODER")]
)
def test_only_some_pipelines_have_a_second_text_encoder(
    build: Callable[[Path], Any], name: str, part: str, tiny: TinyBackbones, tmp_path: Path
) -> None:
    """Asked of the hub's list where the cache does not say; without a network what was not fetched is not there."""
    hub = tmp_path / "hub-server"
    shutil.copytree(tiny.stable_diffusion, hub / "someone" / "tiny-sd")
    build(hub / "someone" / f"tiny-{name}")
    code = (
        "import sys; from mmig.backbones import parts; from mmig.backbones.hub import holds, locate\n"
        f"found = [holds(f'someone/tiny-{{name}}', parts.{part}) for name in ('{name}', 'sd')]\n"
        "print(found, holds('someone/tiny-sd', parts.VAE))\n"
        f"[locate('someone/tiny-{name}', getattr(parts, part)) for part in sys.argv[1:]]"
    )

    def say(*fetched: str, **environment: str) -> str:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        home = {"HF_HOME": str(tmp_path / "home")}
        command = [sys.executable, "-c", code, *fetched]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=kept | home | environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert say(HF_HUB_OFFLINE="1") == "[False, False] True"
    with serve(hub, []) as address:
        assert say("DENOISER", HF_ENDPOINT=address) == "[True, False] True"
        assert say(part, HF_ENDPOINT=address) == "[True, False] True"
    assert say(HF_HUB_OFFLINE="1") == "[True, False] True"
