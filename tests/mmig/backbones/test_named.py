"""Backbones by name: what settings give them, two of one kind, parts that a method declares itself."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mmig.backbones import BackboneError
from mmig.backbones.diffusion import load_text_encoder, load_unet
from mmig.backbones.fingerprint import fingerprint
from mmig.backbones.hub import locate
from mmig.backbones.named import Backbone, Origin, as_backbone, origins
from mmig.backbones.parts import PIPELINE, TEXT_ENCODER, UNET, VAE, Part
from tests.tiny_diffusion import build_text_encoder
from tests.tiny_fixtures import TinyBackbones

SECOND = replace(TEXT_ENCODER, name="text_encoder_2", subfolder="text_encoder_2")
SOUNDS = Part("sound_tower", "sounds", (("sounds.json",),), has_weights=False)
TABLE = {
    "backbones.diffusion": PIPELINE,
    "backbones.unet": {"unet": UNET},
    "backbones.second": {"text_encoder_2": SECOND},
    "sounds": {"sounds": SOUNDS},
}


@dataclass
class Settings:
    diffusion: str
    unet: str | Backbone | None = None
    second: str | Backbone | None = None


def test_a_string_is_short_for_a_path() -> None:
    assert as_backbone("a/b") == as_backbone({"path": "a/b"}) == as_backbone(Backbone("a/b")) == Backbone("a/b")
    assert as_backbone(None) is None
    assert as_backbone({"block_out_channels": [32, 64]}) is None  # sizes of a fresh model


def test_configurations_and_objects_name_the_same() -> None:
    from_yaml = origins(TABLE, {"backbones": {"diffusion": "sd", "unet": {"path": "other"}, "second": None}})
    assert from_yaml == origins(TABLE, {"backbones": Settings("sd", "other")})
    assert {name: origin.path for name, origin in from_yaml.items()} == {
        "vae": "sd", "unet": "other", "text_encoder": "sd", "tokenizer": "sd", "scheduler": "sd",
    }  # fmt: skip
    assert from_yaml["unet"] == Origin("other", UNET, "backbones.unet")


def test_two_of_one_kind(tiny: TinyBackbones, tmp_path: Path) -> None:
    root = tmp_path / "pipeline"
    shutil.copytree(tiny.stable_diffusion, root)
    vocabulary = json.loads((root / "text_encoder" / "config.json").read_text())["vocab_size"]
    build_text_encoder(root / "text_encoder_2", vocabulary, seed=9)
    found = origins(TABLE, {"backbones": Settings(str(root), second=str(root))})
    first, second = (load_text_encoder(found[name]) for name in ("text_encoder", "text_encoder_2"))
    weights = [next(iter(encoder.parameters())) for encoder in (first, second)]
    assert not torch.equal(*weights)
    assert fingerprint(found["text_encoder"]) == fingerprint(root, "text_encoder")
    assert fingerprint(found["text_encoder_2"]) == fingerprint(root / "text_encoder_2")
    # the same setting may take the part of another name
    same = origins(TABLE, {"backbones": Settings(str(root), second=Backbone(str(root), "text_encoder"))})
    assert fingerprint(same["text_encoder_2"]) == fingerprint(root, "text_encoder")


def test_a_part_of_the_methods_own(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "sounds.json").write_text("{}")
    origin = origins(TABLE, {"sounds": str(tmp_path)})["sounds"]
    assert locate(origin, VAE) == tmp_path / "sounds"
    (tmp_path / "sounds" / "sounds.json").write_text('{"rate": 8000}')
    before = fingerprint(origin)
    (tmp_path / "sounds" / "sounds.json").write_text('{"rate": 16000}')
    assert fingerprint(origin) != before
    (tmp_path / "sounds" / "sounds.json").unlink()
    with pytest.raises(BackboneError, match=r"expected sounds\.json of a sound_tower"):
        locate(origin, VAE)


def test_a_named_part_must_be_one(tiny: TinyBackbones) -> None:
    root = str(tiny.stable_diffusion)
    with pytest.raises(BackboneError, match=r"backbones\.unet\.part: no part 'vea'; expected one of .*sound_tower"):
        origins(TABLE, {"backbones": {"unet": {"path": root, "part": "vea"}}})
    with pytest.raises(BackboneError, match=r"backbones\.diffusion\.part: vae, unet, .* no one part"):
        origins(TABLE, {"backbones": {"diffusion": {"path": root, "part": "vae"}}})
    with pytest.raises(BackboneError, match="expected path and part of a backbone, found 'dtype' beside them"):
        origins(TABLE, {"sounds": {"path": root, "dtype": "float32"}})
    wrong = origins(TABLE, {"backbones": {"unet": {"path": root, "part": "vae"}}})["unet"]
    with pytest.raises(BackboneError, match="UNet2DConditionModel"):  # an autoencoder's folder
        load_unet(wrong)
