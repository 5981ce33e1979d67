"""The data step with a detector of its own: killed, over ranks, replayed; and what is trained on what it wrote."""

import json
import os
import signal
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from datamodules.schema import Sample
from datamodules.shard_data import ShardData
from mmig.methods.umm_diffusion import subject_crops
from mmig.methods.umm_diffusion.module import UMMDiffusionModule
from mmig.methods.umm_diffusion.subject_crops import SubjectCrops
from mmig.methods.umm_diffusion.subjects import main
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.datamodules.convert.results import contents, samples
from tests.mmig.methods.umm_diffusion.laion_like import (
    photograph,
    png,
    report_of,
    write_laion,
)
from tests.terms import counts_of, values_of
from tests.tiny_detectors import build_owlv2, build_yolos

LABELS = ["person", "cat", "dog", "tv", "cup", "rocket", "horse", "clock", "boat", "tower", "bench", "tree"]
CAPTION = "a person, a cat, a dog, a tv, a cup, a rocket, a horse, a clock, a boat, a tower, a bench and a tree"
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "moon")
COUNT, EACH, SIDE = 12, 3, 300
LOOSE = ("--min-side", str(SIDE), "--threshold", "0.15", "--nms-iou", "0.05", "--min-inside", "0.5", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs and parts of them, 300 pixels at least but for one, in shards `source`, and a detector."""
    folder = tmp_path_factory.mktemp("subjects")
    build_yolos(folder / "yolos", LABELS, seed=2)  # one whose boxes the rules leave some of
    entries = []
    for number in range(COUNT):
        pixels = photograph(PHOTOGRAPHS[number % len(PHOTOGRAPHS)])
        pixels = pixels[: SIDE - (number == 7) :, : SIDE + 20 * number] if number >= len(PHOTOGRAPHS) else pixels
        entries.append((f"{number:09d}", png(pixels), CAPTION))
    write_laion(folder / "source", [entries[start : start + EACH] for start in range(0, COUNT, EACH)])
    main([*options(folder, folder / "out"), "--record", str(folder / "boxes.jsonl")])
    return folder


def options(folder: Path, out: Path, detector: str = "yolos") -> list[str]:
    return ["--source", str(folder / "source"), "--out", str(out), "--detector", str(folder / detector), *LOOSE]


def test_a_random_detector_finds_subjects_in_photographs(folder: Path) -> None:
    report, found = report_of(folder / "out"), samples(folder / "out")
    assert len(found) >= COUNT // 2 and report["dropped"]["nothing: resolution"] == 1
    assert report["counted"]["subjects"] == sum(len(sample["attachments"]) for sample in found.values())
    answers = [json.loads(line) for line in (folder / "boxes.jsonl").read_text().splitlines()]
    assert [entry["key"] for entry in answers if entry["answer"] is None] == [f"{7:09d}"]
    boxes = [len(entry["answer"]["boxes"]) for entry in answers if entry["answer"]]
    assert sum(boxes) == report["counted"]["boxes"] and len(answers) == COUNT


def test_a_killed_one_goes_on_and_gives_the_bytes_of_an_undisturbed_one(folder: Path, tmp_path: Path) -> None:
    given = [*options(folder, tmp_path / "out"), "--record", str(tmp_path / "boxes.jsonl")]

    def run() -> None:
        torch.set_num_threads(torch.get_num_threads())  # makes the thread pool anew
        answer, asked = SubjectCrops.answer, iter(range(COUNT))

        def deadly(self: SubjectCrops, samples: Sequence[Sample]) -> Any:
            if next(asked) == 2:  # shards
                os.kill(os.getpid(), signal.SIGKILL)
            return answer(self, samples)

        SubjectCrops.answer = deadly  # type: ignore[method-assign]
        main(given)

    process = get_context("fork").Process(target=run)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "out/index.json").exists()
    assert len((tmp_path / "boxes.jsonl").read_text().splitlines()) == 2 * EACH
    written = {tar: tar.stat().st_mtime_ns for tar in (tmp_path / "out").glob("*.tar")}
    main(given)
    assert contents(tmp_path / "out") == contents(folder / "out")
    assert (tmp_path / "boxes.jsonl").read_bytes() == (folder / "boxes.jsonl").read_bytes()
    assert written and {tar: tar.stat().st_mtime_ns for tar in written} == written


def test_two_ranks_give_the_bytes_of_one(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        assert not (tmp_path / "out/index.json").exists()
        monkeypatch.setenv("RANK", rank)
        main([*options(folder, tmp_path / "out"), "--record", str(tmp_path / "boxes.jsonl")])
    assert contents(tmp_path / "out") == contents(folder / "out")
    lines = [(tmp_path / f"boxes.0000{rank}.jsonl").read_text().splitlines() for rank in range(2)]
    assert sorted(lines[0] + lines[1]) == sorted((folder / "boxes.jsonl").read_text().splitlines())


def test_replayed_boxes_give_the_bytes_of_a_live_run_without_the_detector(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the detector was loaded")

    monkeypatch.setattr(subject_crops, "load_detector", refuse)
    main([*options(folder, tmp_path / "out"), "--replay", str(folder / "boxes.jsonl")])
    assert contents(tmp_path / "out") == contents(folder / "out")
    without = ["--source", str(folder / "source"), "--out", str(tmp_path / "none"), *LOOSE]
    main([*without, "--replay", str(folder / "boxes.jsonl")])
    for tar in (folder / "out").glob("*.tar"):
        assert (tmp_path / "none" / tar.name).read_bytes() == tar.read_bytes()


def test_the_detector_is_asked_about_what_a_replayed_file_lacks(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "boxes.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "some.jsonl").write_text("".join(lines[: COUNT // 2]))
    more = ["--replay", str(tmp_path / "some.jsonl"), "--record", str(tmp_path / "rest.jsonl")]
    main([*options(folder, tmp_path / "out"), *more])
    assert contents(tmp_path / "out") == contents(folder / "out")
    assert (tmp_path / "rest.jsonl").read_text() == "".join(lines[COUNT // 2 :])


def test_an_open_vocabulary_is_asked_for_the_labels(folder: Path, tmp_path: Path) -> None:
    build_owlv2(folder / "owlv2")
    asked = ["--open-vocabulary", "--labels", "a b", "cat", "tv", "--batch-size", "3", "--min-inside", "0"]
    more = ["--min-area", "0.01", "--record", str(tmp_path / "boxes.jsonl")]
    main([*options(folder, tmp_path / "out", "owlv2"), *asked, *more])
    answers = [json.loads(line)["answer"] for line in (tmp_path / "boxes.jsonl").read_text().splitlines()]
    assert {label for answer in answers if answer for label in answer["labels"]} <= {"a b", "cat", "tv"}
    found = samples(tmp_path / "out").values()
    assert found and all(
        about["label"] in ("cat", "tv") for sample in found for about in sample["metadata"]["subjects"]
    )
    assert SubjectCrops(open_vocabulary=True).rules.threshold == 0.35
    assert len(SubjectCrops(open_vocabulary=True).labels or ()) == 80


def test_a_label_that_the_detector_has_not_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: labels: the detector has no label 'cats'; did you mean 'cat'\?$"):
        main([*options(folder, tmp_path / "out"), "--labels", "cats"])


def test_a_step_is_trained_on_the_shards_with_the_small_worlds_parts(folder: Path, root: Path) -> None:
    """As configs/umm_diffusion/tinyworld_phase1.yaml names them."""
    config = yaml.safe_load((root / "configs/umm_diffusion/tinyworld_phase1.yaml").read_text())["model"]["init_args"]
    of_data = yaml.safe_load((root / "configs/data/subjects.yaml").read_text())["data"]["init_args"]
    same = {name: of_data[name] for name in ("attachment_size", "resolution")}
    data = ShardData(str(folder / "out"), global_batch_size=4, max_attachments=4, **same)
    data.setup("fit")
    batch: Any = next(iter(data.train_dataloader()))
    assert batch["has_attachment_images"].any(dim=1).all() and not batch["faults"]
    torch.manual_seed(0)
    given = {name: value for name, value in config.items() if name not in ("optimizer", "sampling")}
    trained = UMMDiffusionModule(OptimizerConfig(lr=1e-3), **given | {"drop": 0.0, "subject_share": 1.0})
    draws = Draws(0, batch["position"])
    assert counts_of(trained, batch, draws)["sdm"].tolist() == [True] * 4
    before = trained.pseudo_word.state_dict()["layers.7.weight"].clone()
    optimizer = torch.optim.Adam([parameter for parameter in trained.parameters() if parameter.requires_grad], lr=1e-3)
    loss = values_of(trained, batch, draws)["sdm"].mean()
    loss.backward()
    optimizer.step()
    assert loss.isfinite() and not torch.equal(trained.pseudo_word.state_dict()["layers.7.weight"], before)
