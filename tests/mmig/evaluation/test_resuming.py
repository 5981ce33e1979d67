"""An evaluation that was killed goes on where it was, and finds what one finds that nobody disturbed."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

import evaluate
from mmig.evaluation.unfinished import FOLDER
from tests.mmig.evaluation.stopping import (
    HOW,
    LIMIT,
    LOG,
    STOP_AFTER,
    Patchy,
    check_edited_once,
    check_equal,
    finish,
    interrupt_after,
    kill_after,
    num_edits,
    running,
    wait_for_edits,
    write_config,
)
from tests.mmig.evaluation.support import random_samples, write_data
from tests.tiny_vision import build_dino

NUM_EDITS = 22
"""Eleven samples, of which one cannot be read and another stands in for it, under two seeds."""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of an evaluation of everything that a resume may lose: features of sets, NaN, stand-ins, seeds."""
    folder = tmp_path_factory.mktemp("given")
    samples = random_samples(11)
    samples[3]["source"] = b"\x89PNG\r\n\x1a\n, and no picture"
    data = write_data(folder / "data", samples, max_bad_fraction=1.0)
    config = write_config(folder / "editor.yaml")
    patchy = f"{Patchy.__module__}.{Patchy.__qualname__}"
    metrics = ["--metrics", "l1_target", "ssim_target", patchy, "kid"]
    models = ["--dino", str(build_dino(folder / "dino")), "--features", "dino"]
    given = ["--config", str(config), "--data", str(data), *metrics, *models]
    return [*given, "--seeds", "2", "--device", "cpu", "--keep-pictures", "6"]


@pytest.fixture(scope="module")
def undisturbed(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of that evaluation."""
    out = tmp_path_factory.mktemp("undisturbed") / "whole"
    finish(out, given)
    return out


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where all edits of a test are written down."""
    monkeypatch.setenv(LOG, str(tmp_path / "edits.txt"))
    return tmp_path / "edits.txt"


def test_killed_twice_it_finds_bit_for_bit_what_one_finds_that_was_not_and_edits_nothing_twice(
    given: list[str], undisturbed: Path, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    kill_after(out, 2, given)  # between the two seeds of a batch
    assert num_edits(out) == 2
    kill_after(out, 10, given)
    assert num_edits(out) == 12
    finish(out, given)
    check_equal(out, undisturbed, exact=True)
    assert json.loads((out / "metrics.json").read_text())["metrics"]["patchy"]["skipped"]["not_finite"] > 0
    edits = log.read_text().splitlines()
    assert len(edits) == NUM_EDITS
    assert len(set(edits)) == NUM_EDITS - 2  # a stand-in is edited too, under the key of a sample that is there


def test_two_ranks_are_killed_and_one_goes_on_in_other_batches(
    given: list[str], undisturbed: Path, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    kill_after(out, 4, given, num_ranks=2)
    assert sorted(path.name for path in (out / FOLDER).glob("*.jsonl")) == ["0.jsonl", "1.jsonl"]
    kill_after(out, 3, [*given, "--batch-size", "3"])
    finish(out, [*given, "--batch-size", "4"])
    check_equal(out, undisturbed, exact=False)
    assert len(log.read_text().splitlines()) == NUM_EDITS


def test_of_several_systems_those_that_had_ended_are_not_edited_again(
    given: list[str], log: Path, tmp_path: Path
) -> None:
    second = write_config(tmp_path / "second.yaml", stops=False)
    systems, options = [str(second), given[1]], given[2:]  # the one that is stopped comes last
    out, data = tmp_path / "whole", ["--config", *systems, *options, "--grid", "factor=0.5,1"]
    with running([*data, "--out", str(out)], **{STOP_AFTER: "4", HOW: "hang"}) as processes:
        wait_for_edits(out / "factor=0.5/editor", 4, processes)
    assert (out / "factor=0.5/second/metrics.json").is_file()
    assert num_edits(out / "factor=0.5/second") == NUM_EDITS
    finish(out, data)
    assert len(log.read_text().splitlines()) == 4 * NUM_EDITS
    finish(tmp_path / "undisturbed/whole", data)
    check_equal(out / "factor=0.5/editor", tmp_path / "undisturbed/whole/factor=0.5/editor", exact=True)
    check_equal(out / "factor=0.5/second", tmp_path / "undisturbed/whole/factor=0.5/second", exact=True)
    assert (out / "overview.html").is_file() and not list(out.rglob(f"{FOLDER}*"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(1, 2, 3), (3, 1, 2), (2, 2, 2)])
def test_any_number_of_ranks_goes_on_with_what_any_other_left(
    ranks: tuple[int, ...], given: list[str], undisturbed: Path, log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    for number in ranks[:-1]:
        kill_after(out, 2, given, num_ranks=number)
    finish(out, given, ranks[-1])
    check_equal(out, undisturbed, exact=False)
    assert len(log.read_text().splitlines()) == NUM_EDITS


@pytest.mark.slow
@pytest.mark.parametrize("first", range(2, NUM_EDITS, 4))
def test_whenever_it_is_killed_it_finds_the_same(
    first: int, given: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "whole"
    kill_after(out, first, given)
    finish(out, given)
    check_equal(out, undisturbed, exact=True)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
def test_a_diffusion_model_finds_the_same_too_to_the_bit_in_the_same_batches(
    size: int, root: Path, tmp_path: Path
) -> None:
    section = yaml.safe_load((root / "configs/editors/tiny_instruction.yaml").read_text())["editor"]
    section["init_args"]["sampling"]["num_steps"] = 2
    wrapped = write_config(tmp_path / "editor.yaml", inner=section)
    data = write_data(tmp_path / "data", random_samples(6))
    metrics = ["--clip", "assets/tiny/clip-eval", "--metrics", "l1_target", "clip_directional_similarity"]
    given = ["--config", str(wrapped), "--data", str(data), "--device", "cpu", *metrics]
    finish(tmp_path / "one" / "out", given)
    kill_after(tmp_path / "two" / "out", 2, given)
    finish(tmp_path / "two" / "out", [*given, "--batch-size", str(size)])
    check_equal(tmp_path / "two" / "out", tmp_path / "one" / "out", exact=size == 2)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_ctrl_c_ends_it_with_130_in_one_line_and_keeps_what_is_finished(
    num_ranks: int, given: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with running([*given, "--out", str(out)], num_ranks, **{STOP_AFTER: "4", HOW: "hang"}) as processes:
        wait_for_edits(out, 4 * num_ranks, processes)
        for process in processes:
            os.kill(process.pid, signal.SIGINT)
        for process in processes:
            process.join(LIMIT)
        assert [process.exitcode for process in processes] == [130] * num_ranks
    error = capfd.readouterr().err
    assert error.rstrip().splitlines()[-1] == "interrupted"
    assert error.count("interrupted") == 1
    assert "Traceback" not in error
    assert num_edits(out) == 4 * num_ranks
    assert not (out / "metrics.json").exists()


@pytest.fixture(scope="module")
def simple(data_config: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options of an evaluation of five samples by one metric."""
    config = write_config(tmp_path_factory.mktemp("simple") / "editor.yaml")
    return ["--config", str(config), "--data", str(data_config), "--metrics", "l1_target", "--device", "cpu"]


def test_half_a_line_is_dropped_and_its_sample_edited_again(simple: list[str], log: Path, tmp_path: Path) -> None:
    evaluate.main([*simple, "--out", str(tmp_path / "whole" / "out")])
    log.unlink()
    out = tmp_path / "cut" / "out"
    interrupt_after(out, 4, simple)
    path = out / FOLDER / "0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    interrupt_after(out, 1, simple)
    assert num_edits(out) == 4
    evaluate.main([*simple, "--out", str(out)])
    check_equal(out, tmp_path / "whole" / "out", exact=False)  # one sample was edited in a batch of its own
    assert len(log.read_text().splitlines()) == 6


def test_a_line_that_evaluate_py_did_not_write_is_named(simple: list[str], tmp_path: Path) -> None:
    interrupt_after(tmp_path, 2, simple)
    path = tmp_path / FOLDER / "0.jsonl"
    path.write_bytes(b"{}\n" + path.read_bytes())
    with pytest.raises(SystemExit, match=r"0\.jsonl, line 1: expected an edit of evaluate\.py, found .* begin anew"):
        evaluate.main([*simple, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--limit", "3"], "limit was None and is 3"),
        (["--seeds", "2"], "seeds was [0] and is [0, 1]"),
        (["--sampling", "factor=2"], "sampling.factor was 1.0 and is 2"),
        (["--keep-pictures", "1"], "keep_pictures was 1000 and is 1"),
    ],
)
def test_another_command_begins_anew_and_says_why(
    options: list[str], said: str, simple: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "again" / "out"
    interrupt_after(out, 4, simple)
    caplog.clear()
    evaluate.main([*simple, *options, "--out", str(out)])
    (line,) = [message for message in caplog.messages if "begins anew" in message]
    assert line.startswith(f"{out}: begins anew; 4 edits of an evaluation that did not end are dropped")
    assert said in line
    evaluate.main([*simple, *options, "--out", str(tmp_path / "fresh" / "out")])
    check_equal(out, tmp_path / "fresh" / "out", exact=True)


def test_two_processes_do_not_evaluate_into_one_folder(simple: list[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    with running([*simple, "--out", str(out)], **{STOP_AFTER: "2", HOW: "hang"}) as processes:
        wait_for_edits(out, 2, processes)
        for options in ([], ["--limit", "1"]):
            with pytest.raises(SystemExit, match="another process evaluates into this folder; wait for it"):
                evaluate.main([*simple, *options, "--out", str(out)])
        assert num_edits(out) == 2
        assert len(list((out / ".pictures.part").glob("*.png"))) == 2
    evaluate.main([*simple, "--out", str(out)])
    assert not list(out.glob(".*"))


def test_a_finished_evaluation_is_done_anew(simple: list[str], log: Path, tmp_path: Path) -> None:
    for _ in range(2):
        evaluate.main([*simple, "--out", str(tmp_path / "out")])
    assert len(log.read_text().splitlines()) == 10


def test_a_mistake_in_a_later_command_loses_nothing_and_it_says_what_was_there(
    simple: list[str], log: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    interrupt_after(out, 4, simple)
    with pytest.raises(SystemExit, match="no split"):
        evaluate.main([*simple, "--split", "val", "--out", str(out)])
    evaluate.main([*simple, "--out", str(out)])
    assert "resumed: 4 of 5 edits were there" in caplog.messages
    assert capsys.readouterr().err.count(" 5/5 ") == 1  # where the bar ends that began at 4
    check_edited_once(log, 5)


def test_a_report_that_could_not_be_written_is_written_without_editing_again(
    simple: list[str], log: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:

        def full(path: Path, value: object) -> None:
            raise OSError("disk full")

        patch.setattr("mmig.evaluation.report.write_json", full)  # after the pictures have been put in their place
        with pytest.raises(SystemExit, match="disk full"):
            evaluate.main([*simple, "--out", str(out)])
    evaluate.main([*simple, "--out", str(out)])
    check_edited_once(log, 5)
    assert len(list((out / "pictures").glob("*.png"))) == 5
    assert not list(out.glob(".*"))
