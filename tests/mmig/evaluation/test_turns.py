"""Editing in turns: who edits what in which turn, and evaluate.py --turns on sessions of MagicBrush."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import evaluate
from datamodules.convert.__main__ import main as convert
from datamodules.schema import Batch, take
from mmig.base.texts import CutText
from mmig.editor import EditOutput, MissingFieldError, with_settings
from mmig.evaluation.editors import AutoencoderCeiling, FolderOfPictures, Identity
from mmig.evaluation.rows import read_rows
from mmig.evaluation.turns import InTurns, in_turns
from mmig.methods.mmig.editor import MMIGEditor, SamplingConfig
from mmig.training.rng import sample_generators
from tests.datamodules.convert.layouts import as_png, write
from tests.datamodules.convert.magicbrush_layout import folder_files
from tests.mmig.evaluation.support import CopySampling, NoisyCopy
from tests.mmig.metrics.support import random_batch

SESSIONS = [["+ 0.25", "* 2", "- 0.5"], ["* 2"], ["* 2", "+ 0.25"]]
SOURCES, RESULTS = [0.25, 0.25, 0.125], [0.5, 0.5, 0.5]
"""(0.25 + 0.25) * 2 - 0.5, 0.25 * 2, 0.125 * 2 + 0.25."""


class Arithmetic:
    """Follows instructions such as "+ 0.25" to the letter, beyond [-1,1] too; remembers the batches."""

    required_fields: tuple[str, ...] = ("source", "instruction")
    response_source = "none"

    def __init__(self) -> None:
        self.sampling = CopySampling()
        self.batches: list[Batch] = []

    def __call__(self, batch: Batch, generator: torch.Generator | Sequence[torch.Generator]) -> EditOutput:
        self.batches.append(batch)
        images = []
        for image, instruction in zip(batch["source"], batch["instruction"], strict=True):
            sign, number = instruction.split()
            images.append(image * float(number) if sign == "*" else image + float(sign + number))
        cut = [[CutText("instruction", text, 9, 8)] if text[0] == "+" else [] for text in batch["instruction"]]
        extras = {"cut": cut, "captions": [f"after {text}" for text in batch["instruction"]], "layered_loss": images[0]}
        return EditOutput(torch.stack(images), [f"{text}!" for text in batch["instruction"]], extras)


def batch_of(sessions: Sequence[Sequence[str]], sources: Sequence[float]) -> dict[str, Any]:
    """Sessions on sources of one value, with everything else that a batch may hold."""
    batch = random_batch(len(sessions), size=4)
    batch["source"] = torch.tensor(sources)[:, None, None, None].expand(-1, 3, 4, 4).clone()
    batch["metadata"] = [{"turn_instructions": list(instructions)} for instructions in sessions]
    batch["instruction"] = ["; then ".join(instructions) for instructions in sessions]
    batch |= {"features.latents.source": torch.zeros(len(sessions), 1), "feature_facts": [{}] * len(sessions)}
    return batch | {"reference_mask": torch.ones(len(sessions), 1, 4, 4), "position": torch.arange(len(sessions))}


def edited(editor: Any, batch: dict[str, Any]) -> EditOutput:
    return editor(batch, sample_generators(0, batch["key"]))


def test_each_turn_edits_what_came_of_the_one_before() -> None:
    editor = Arithmetic()
    output = edited(InTurns(editor), batch_of(SESSIONS, SOURCES))
    assert output.images[:, 0, 0, 0].tolist() == RESULTS and output.images.shape == (3, 3, 4, 4)
    assert output.texts == ["- 0.5!", "* 2!", "+ 0.25!"]
    assert [batch["instruction"] for batch in editor.batches] == [
        ["+ 0.25", "* 2", "* 2"],
        ["* 2", "+ 0.25"],
        ["- 0.5"],
    ]
    assert [len(batch["key"]) for batch in editor.batches] == [3, 2, 1]


def test_pictures_are_cut_to_their_range_between_turns() -> None:
    output = edited(InTurns(Arithmetic()), batch_of([["+ 0.5", "- 0.5"]], [0.75]))
    assert output.images.unique().tolist() == [0.5]


def test_one_turn_is_the_editors_own_edit() -> None:
    batch = batch_of([["make it red"]] * 3, SOURCES) | {"instruction": ["make it red"] * 3}
    own, in_turn = edited(NoisyCopy(), batch), edited(InTurns(NoisyCopy()), batch)
    assert torch.equal(own.images, in_turn.images) and own.texts == in_turn.texts


def test_batches_change_nothing() -> None:
    batch = batch_of([["a", "b", "c"], ["d"], ["e", "f"], ["g", "h"]], [0.1, 0.2, 0.3, 0.4])
    whole = edited(InTurns(NoisyCopy()), batch)
    for size in (1, 2, 3):
        parts = [edited(InTurns(NoisyCopy()), take(batch, slice(start, start + size))) for start in range(0, 4, size)]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert [text for part in parts for text in part.texts] == whole.texts


def test_a_generator_goes_on_from_turn_to_turn() -> None:
    batch = batch_of([["a"], ["b", "c"]], [0.0, 0.0])
    (source,) = sample_generators(0, batch["key"][1:])
    expected = sum(0.1 * torch.randn(3, 4, 4, generator=source) for _ in range(2))
    assert torch.equal(edited(InTurns(NoisyCopy(0.1)), batch).images[1], expected)


def test_no_turn_is_shown_what_is_about_another_picture() -> None:
    editor = Arithmetic()
    batch = batch_of(SESSIONS, SOURCES)
    edited(InTurns(editor), batch)
    fields = {"key", "position", "source", "has_source", "target", "has_target", "instruction"}
    kept = [{name for name in shown if "attachment" not in name} for shown in editor.batches]
    assert kept == [fields] * 3
    assert [shown["attachment_kinds"] for shown in editor.batches] == [[[]] * rows for rows in (3, 2, 1)]
    assert not any(shown["has_attachments"].any() for shown in editor.batches)
    assert torch.equal(editor.batches[1]["target"], batch["target"][[0, 2]])
    assert batch["source"][:, 0, 0, 0].tolist() == SOURCES


def test_extras_are_those_of_the_last_turn_and_cut_texts_those_of_all() -> None:
    extras = edited(InTurns(Arithmetic()), batch_of(SESSIONS, SOURCES)).extras
    assert extras["captions"] == ["after - 0.5", "after * 2", "after + 0.25"]
    assert [[cut.reader for cut in of_sample] for of_sample in extras["cut"]] == [["+ 0.25"], [], ["+ 0.25"]]
    assert extras.keys() == {"captions", "cut"}


def test_settings_reach_the_editor_and_leave_the_given_one_alone() -> None:
    given = NoisyCopy(sampling=CopySampling(factor=0.0))
    changed = with_settings(InTurns(given), {"factor": 2.0})
    assert (changed.editor.sampling.factor, changed.sampling.factor, given.sampling.factor) == (2.0, 2.0, 0.0)
    assert (changed.required_fields, changed.response_source) == (given.required_fields, "none")


@pytest.mark.parametrize(("found", "words"), [(None, "found none"), ([], r"found \[\]"), (["a", " "], "found")])
def test_samples_without_turns_are_refused(found: Any, words: str) -> None:
    batch = batch_of([["a"], ["b"]], [0.0, 0.0])
    batch["metadata"][1] = {} if found is None else {"turn_instructions": found}
    with pytest.raises(MissingFieldError, match=f"sample '{batch['key'][1]}': --turns .*{words}.*magicbrush_sessions"):
        edited(InTurns(NoisyCopy()), batch)


def test_an_editor_that_is_given_a_response_is_refused() -> None:
    given = SamplingConfig(response="given")
    with pytest.raises(ValueError, match=r"--turns: MMIGEditor reads response of the data, .* response=generated"):
        in_turns(MMIGEditor(None, given))
    assert isinstance(in_turns(MMIGEditor(None, replace(given, response="generated"))), InTurns)


def test_what_stands_at_either_end_can_be_scored_too(tmp_path: Path) -> None:
    assert isinstance(in_turns(Identity()), InTurns)
    assert isinstance(in_turns(AutoencoderCeiling("assets/tiny/stable-diffusion")), InTurns)
    write(tmp_path, {"a.png": as_png(np.zeros((4, 4, 3), np.uint8))})
    pictures = FolderOfPictures(tmp_path)
    assert in_turns(pictures) is pictures


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data YAML of a test set of three flat sessions: their first sources are 200, last targets 101, 98 and 149."""
    root = tmp_path_factory.mktemp("magicbrush")
    turns = [("1", 1), ("1", 2), ("1", 3), ("2", 1), ("3", 1), ("3", 2)]
    files = folder_files(turns=turns)
    shades = {"1-input": 200, "1-output1": 7, "1-output2": 8, "1-output3": 101, "2-input": 200, "2-output1": 98}
    for name, shade in (shades | {"3-input": 200, "3-output1": 9, "3-output2": 149}).items():
        files[f"images/{name[0]}/{name}.png"] = as_png(np.full((16, 16, 3), shade, np.uint8))
    given = ["--source", str(write(root / "source", files)), "--out", str(root / "shards"), "--workers", "1"]
    assert convert(["magicbrush_sessions", *given, "--partial"]) == 0
    arguments = {"test": str(root / "shards" / "test"), "resolution": 16, "eval_batch_size": 2}
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": arguments}
    (root / "data.yaml").write_text(yaml.safe_dump({"data": data}))
    return root / "data.yaml"


def scored(data: Path, out: Path, *given: str) -> dict[str, float]:
    """L1 to the target by key."""
    options = ["--data", str(data), "--metrics", "l1_target", "--device", "cpu", "--out", str(out)]
    evaluate.main([*options, *given])
    return {row.key: row.values["l1_target"] for row in read_rows(out / "samples.jsonl")}


def test_the_last_picture_of_a_session_is_scored(
    sessions: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    found = scored(sessions, tmp_path / "out", "--config", "configs/editors/identity.yaml", "--turns")
    assert found == pytest.approx({"1": 99 / 255, "2": 102 / 255, "3": 51 / 255}, abs=1e-6)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (report["turns"], report["editor_class"]) == (True, "mmig.evaluation.editors.Identity")
    assert report["metrics"]["l1_target"]["value"] == pytest.approx(84 / 255)


def test_batches_and_pictures_of_an_evaluation_in_turns_give_the_same(sessions: Path, tmp_path: Path) -> None:
    config = tmp_path / "noisy.yaml"
    config.write_text(yaml.safe_dump({"editor": {"class_path": "tests.mmig.evaluation.test_opening.make_copy"}}))
    two = scored(sessions, tmp_path / "two", "--config", str(config), "--turns")
    assert scored(sessions, tmp_path / "one", "--config", str(config), "--turns", "--batch-size", "1") == two
    at_once = scored(sessions, tmp_path / "at_once", "--config", str(config))
    assert at_once["2"] == two["2"] and at_once["1"] != two["1"] and at_once["3"] != two["3"]
    pictures = scored(sessions, tmp_path / "again", "--images", str(tmp_path / "two" / "pictures"), "--turns")
    assert pictures == pytest.approx(two, abs=1 / 255)
