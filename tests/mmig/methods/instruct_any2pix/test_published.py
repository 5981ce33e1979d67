"""configs/instruct_any2pix: what the paper says, and docs/instruct_any2pix.md names what exists."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
DOCUMENT = ROOT / "docs/instruct_any2pix.md"


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / f"configs/instruct_any2pix/{name}.yaml").read_text(encoding="utf-8"))


def test_the_phases_differ_in_class_rate_length_and_precision_alone():
    found = []
    for phase in (1, 2, 3):
        model = config(f"published_llm{phase}")["model"]
        assert model["class_path"].endswith(f".LLM{phase}Module")
        settings = model["init_args"]
        optimizer = settings.pop("optimizer")
        assert (optimizer["weight_decay"], optimizer["schedule"]) == (0.0, "cosine")
        assert settings["language"].pop("dtype") == ("bfloat16" if phase == 1 else "float32")
        found.append(settings)
    assert found[0] == found[1] == found[2]
    assert found[0]["loss_weights"] == {"text": 1.0, "base": 1.0, "gen": 1.0}  # eq 1
    assert found[0]["llm"] == "lmsys/vicuna-7b-v1.5" and found[0]["converted"] == 0.8


def test_prior_and_decoder_are_of_the_published_sizes():
    prior, decoder = config("published_prior")["model"]["init_args"], config("published_decoder")["model"]["init_args"]
    assert prior["size"] == {"hidden_dim": 1024, "layers": 24, "heads": 16, "score_dim": 512, "vector_norm": 20.0}
    assert prior["distance"] == "squared" and prior["optimizer"]["lr"] == 2e-4
    assert decoder["unet"] == "stabilityai/stable-diffusion-xl-base-1.0" and decoder["projector"]["hidden_dim"] == 4096
    assert decoder["drop"] == 0.1


def test_every_linked_file_exists_and_every_linked_name_is_in_it():
    text = DOCUMENT.read_text(encoding="utf-8")
    links = re.findall(r"\[([^\]]+)\]\((\.\./[\w./-]+)\)", text)
    assert len(links) > 40
    for label, target in links:
        path = (DOCUMENT.parent / target).resolve()
        assert path.exists(), target
        for name in re.findall(r"`(\w+)`", label) if path.suffix == ".py" else ():
            tree = ast.parse(path.read_text(encoding="utf-8")).body
            assert name in {getattr(node, "name", "") for node in tree}, f"{target}: {name}"


@pytest.mark.parametrize("name", re.findall(r"`((?:published|tinyworld)_\w+)\.yaml`", DOCUMENT.read_text()))
def test_every_training_that_is_named_has_a_configuration(name: str):
    assert config(name)["model"]["class_path"].startswith("mmig.methods.instruct_any2pix.")
