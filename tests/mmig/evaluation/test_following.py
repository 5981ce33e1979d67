"""An editor under the text that another method writes."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
import yaml

import evaluate
from mmig.editor import with_settings
from mmig.evaluation.following import FollowsWriter
from mmig.evaluation.opening import OpeningError, open_config
from mmig.evaluation.rows import read_rows
from mmig.methods.instruct_pix2pix.pipeline import open_editor
from mmig.methods.mgie.pipeline import MGIESampling
from tests.mmig.evaluation.support import random_samples, write_data
from tests.mmig.methods.mgie.support import batch, module
from tests.tiny_diffusion import build_instruct_pix2pix, build_stable_diffusion

SAMPLING = {"num_steps": 2, "guidance_scale": 3.0, "image_guidance_scale": 1.5, "text": "expressive"}


@cache
def writer() -> str:
    """An exported MGIE."""
    folder = Path(mkdtemp()) / "mgie"
    folder.mkdir()
    module(sampling=MGIESampling(num_steps=2, max_new_tokens=6, response="given")).export(folder, {})
    return str(folder)


@cache
def wide() -> str:
    """A pipeline whose UNet takes the source too."""
    return str(build_instruct_pix2pix(build_stable_diffusion(Path(mkdtemp()) / "wide")))


def section(**changes: Any) -> dict[str, Any]:
    return {
        "class_path": "mmig.methods.instruct_pix2pix.pipeline.open_editor",
        "init_args": {"path": wide(), "backbone": wide(), "sampling": SAMPLING | changes},
    }


def generators() -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in range(4)]


def test_what_is_written_guides_the_other_editor() -> None:
    editor, data = FollowsWriter(writer(), section()), batch()
    edited = editor(data, generators())
    written = with_settings(editor.writer, {"response": "generated"})(data, generators()).texts
    assert edited.texts == written != data["expressive"]
    by_hand = open_editor(wide(), wide(), sampling=editor.sampling).edit(data["source"], written, generators())
    assert torch.equal(edited.images, by_hand)
    others = open_editor(wide(), wide(), sampling=editor.sampling)(data, generators()).images
    assert not torch.equal(edited.images, others)  # those of the data's own texts


def test_only_what_is_not_written_must_be_there() -> None:
    editor, data = FollowsWriter(writer(), section()), batch()
    del data["expressive"], data["has_expressive"]
    assert editor.required_fields == ("source", "instruction")
    assert len(editor(data, generators()).texts) == 4


def test_settings_are_the_editors() -> None:
    editor = FollowsWriter(writer(), section())
    other = with_settings(editor, {"guidance_scale": 1.0})
    assert (editor.sampling.guidance_scale, other.sampling.guidance_scale) == (3.0, 1.0)
    assert (editor.editor.sampling.guidance_scale, other.editor.sampling.guidance_scale) == (3.0, 1.0)


def test_one_that_writes_nothing_or_reads_another_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OpeningError, match="Pix2PixPipeline reads source, response, found 'expressive'; give one"):
        FollowsWriter(writer(), section(text="response"))
    exported = tmp_path / "silent"
    exported.mkdir()
    (exported / "editor.yaml").write_text(yaml.safe_dump(section()))
    for name in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        (exported / name).symlink_to(Path(wide()) / name)
    with pytest.raises(OpeningError, match=r"writer: .*silent: InstructPix2PixPipeline writes no text; give a run"):
        FollowsWriter(str(exported), section())


def test_evaluated_by_a_configuration(tmp_path: Path) -> None:
    config = tmp_path / "frozen.yaml"
    built = {"writer": writer(), "editor": section()}
    config.write_text(
        yaml.safe_dump({"editor": {"class_path": "mmig.evaluation.following.FollowsWriter", "init_args": built}})
    )
    data = write_data(tmp_path / "data", random_samples(3), eval_batch_size=3)
    given = ["--config", str(config), "--data", str(data), "--metrics", "l1_input", "--device", "cpu"]
    evaluate.main([*given, "--sampling", "num_steps=1", "--out", str(tmp_path / "out")])
    assert len(read_rows(tmp_path / "out" / "samples.jsonl")) == 3
    moved = open_config(config, "meta").editor
    assert next(moved.editor.unet.parameters()).is_meta and next(moved.writer.head.parameters()).is_meta
