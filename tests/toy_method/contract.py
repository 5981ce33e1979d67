"""The toy as the contract sees it."""

import tempfile
from pathlib import Path
from typing import Any

from tests.mmig.methods.contract import Case
from tests.tiny_fixtures import TinyBackbones
from tests.toy_method.ear import make_ear
from tests.toy_method.painter import SIDE
from tests.toy_method.samples import RATE, SECONDS, tones


def model(backbones: TinyBackbones) -> dict[str, Any]:
    """Painter and critic, who begins with the second step."""
    ear = Path(tempfile.mkdtemp(dir=backbones.llama.parent)) / "ear"
    arguments = {"optimizer": {"lr": 1.0e-2, "groups": {"critic": {"lr": 3.0e-3, "betas": [0.5, 0.9]}}}}
    return {"class_path": "tests.toy_method.module.ToneModule", "init_args": {**arguments, "ear": str(make_ear(ear))}}


DATA = {"resolution": SIDE, "audio_rate": RATE, "audio_seconds": SECONDS, "attachment_size": SIDE}
CASES = {
    "tones": Case(
        model,
        tones,
        DATA,
        sampling=("variety=0.5",),
        instruction="paint <audio:0>",
        inputs=("--attach", "audio={folder}/tone.wav"),
    )
}
