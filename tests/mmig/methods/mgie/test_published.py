"""configs/mgie and configs/lgie: the published recipe, and LGIE as MGIE without eyes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.test_configs import ParsedError, ParseOnly

ROOT = Path(__file__).resolve().parents[4]


def by_its_command(config: str) -> dict[str, Any]:
    """The merged configuration of the training command in a header."""
    lines = (ROOT / config).read_text(encoding="utf-8").splitlines()
    header = "\n".join(line.lstrip("# ") for line in lines if line.startswith("#")).replace("\\\n", " ")
    found = re.search(r"python train\.py (fit [^\n]*)", header)
    assert found
    words = [str(ROOT / word) if word.startswith("configs/") else word for word in shlex.split(found[1])]
    with pytest.raises(ParsedError) as caught:
        ParseOnly(words)
    return caught.value.args[0]


def test_the_published_command_is_the_published_recipe() -> None:
    """Fu et al. 2024: sizes, losses, drops, batch and both learning rates; decay and schedule of the released code."""
    config = by_its_command("configs/mgie/published.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["sees"], model["drop"], model["loss_weights"]) == (True, 0.05, {"text": 1.0, "sdm": 0.5})
    assert (model["language"]["num_image_tokens"], model["language"]["rows"]) == (8, "all")
    assert model["head"] == {"dim": 512, "num_queries": 77, "heads": 4, "layers": 4, "feed_forward": 2048}
    optimizer = model["optimizer"]
    assert (optimizer["lr"], optimizer["groups"]["unet"]["lr"]) == (5e-4, 1e-4)
    assert (optimizer["weight_decay"], optimizer["schedule"]) == (0.0, "cosine")
    assert optimizer["warmup_steps"] == round(0.03 * config["trainer"]["max_steps"])
    assert (data["global_batch_size"], data["resolution"]) == (128, 256)
    assert config["trainer"]["max_steps"] * 128 == 40 * 1_000_000


def test_lgie_is_mgie_that_does_not_see() -> None:
    models = [by_its_command(f"configs/{name}/published.yaml")["model"]["init_args"] for name in ("mgie", "lgie")]
    assert [model.pop("sees") for model in models] == [True, False]
    assert models[0] == models[1]
