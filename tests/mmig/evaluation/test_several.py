"""Several systems in one command: each has the folder of an evaluation alone, and a page compares them."""

import json
from pathlib import Path

import pytest
import yaml

import evaluate
from mmig.evaluation.overview import Evaluated
from mmig.evaluation.sections import section
from mmig.evaluation.unfinished import FOLDER
from mmig.run.jobs import sampling_of
from tests.mmig.evaluation.stopping import LOG, check_equal, finish, write_config
from tests.mmig.evaluation.support import random_samples, write_data

METRICS = ["--metrics", "l1_target", "l1_input", "--device", "cpu"]


@pytest.fixture
def editors(tmp_path: Path) -> list[str]:
    """Configurations of a copy with noise and of the source as it is."""
    classes = {"noisy": "tests.mmig.evaluation.support.NoisyCopy", "same": "mmig.evaluation.editors.Identity"}
    for name, class_path in classes.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"editor": {"class_path": class_path}}))
    return [str(tmp_path / f"{name}.yaml") for name in classes]


@pytest.mark.parametrize("ranks", [1, 2])
def test_each_is_what_it_is_alone_on_any_number_of_ranks(editors: list[str], ranks: int, tmp_path: Path) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(7))), *METRICS]
    finish(tmp_path / "all", ["--config", *editors, *data], ranks)
    for name, config in zip(("noisy", "same"), editors, strict=True):
        finish(tmp_path / "alone" / name, ["--config", config, *data])
        check_equal(tmp_path / "all" / name, tmp_path / "alone" / name, exact=ranks == 1)
    page = (tmp_path / "all/report.html").read_text()
    assert "noisy" in page and "same" in page and "Paired differences to noisy" in page
    (part,) = json.loads((tmp_path / "all/overview.json").read_text())["parts"]
    assert [(entry["system"], entry["folder"]) for entry in part["evaluations"]] == [
        ("noisy", "noisy"),
        ("same", "same"),
    ]
    assert part["evaluations"][1]["values"]["l1_input"]["value"] == 0


def test_names_with_odd_characters_are_linked_and_printed_as_they_are(
    editors: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "a#b [bold] 100%.yaml"
    odd.write_text(Path(editors[0]).read_text())
    data = ["--data", str(write_data(tmp_path / "data", random_samples(2))), *METRICS]
    evaluate.main(["--config", editors[1], str(odd), *data, "--out", str(tmp_path / "out")])
    page = (tmp_path / "out/overview.html").read_text()
    assert 'href="a%23b%20%5Bbold%5D%20100%25/report.html"' in page and 'href="same/report.html"' in page
    assert '<p class="kicker">Overview</p>' in page
    assert capsys.readouterr().out.count("a#b [bold] 100%") >= 2


def test_the_overview_has_the_metrics_of_every_system() -> None:
    value = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 3, "skipped": {}}
    reports = [{"metrics": {"l1_target": value}}, {"metrics": {"l1_target": value, "own": value}}]
    evaluated = [Evaluated(name, name, report) for name, report in zip("ab", reports, strict=True)]
    found = section(None, None, evaluated)
    assert [heading.metric for heading in found.headings] == ["l1_target", "own"]
    assert [row.values[1] is None for row in found.ours] == [True, False]


def test_an_overview_that_could_not_be_written_is_written_without_editing_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "edits.txt"))
    configs = [str(write_config(tmp_path / f"{name}.yaml", stops=False)) for name in "ab"]
    data = ["--data", str(write_data(tmp_path / "data", random_samples(3))), *METRICS]
    command = ["--config", *configs, *data, "--out", str(tmp_path / "out")]
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise OSError("disk full")

        patch.setattr("mmig.run.summary.write_json", full)
        with pytest.raises(SystemExit, match="disk full"):
            evaluate.main(command)
    evaluate.main(command)
    assert len((tmp_path / "edits.txt").read_text().splitlines()) == 2 * 3
    assert (tmp_path / "out/overview.json").is_file() and not list(tmp_path.rglob(FOLDER))


def test_how_it_is_scored_is_said_once(
    editors: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(2))), *METRICS]
    evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "out")])
    assert sum("scor" in message for message in caplog.messages if "settings" in message or "says" in message) == 1


def test_a_comparison_with_an_earlier_one_is_of_one(editors: list[str], tmp_path: Path) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(2))), "--compare", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"--compare: several evaluations are asked for; give `evaluate.py compare`"):
        evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "out")])


def test_a_setting_that_one_of_them_does_not_have_is_refused(editors: list[str], tmp_path: Path) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(2))), *METRICS, "--grid", "factor=0.5,1"]
    with pytest.raises(SystemExit, match=r"--sampling factor=0\.5: Identity has nothing to set; leave it out"):
        evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "out")])


def test_one_evaluation_and_several_do_not_share_a_folder(editors: list[str], tmp_path: Path) -> None:
    data = ["--data", str(write_data(tmp_path / "data", random_samples(2))), *METRICS]
    evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "several")])
    evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "several")])  # the same again is welcome
    assert 'href="report.html"' in (tmp_path / "several/overview.html").read_text()
    evaluate.main(["--config", editors[0], *data, "--out", str(tmp_path / "one")])
    with pytest.raises(SystemExit, match="several: holds several evaluations, and one would be mixed with that"):
        evaluate.main(["--config", editors[0], *data, "--out", str(tmp_path / "several")])
    with pytest.raises(SystemExit, match="one: holds one evaluation, and several would be mixed with that"):
        evaluate.main(["--config", *editors, *data, "--out", str(tmp_path / "one")])


def test_data_that_are_not_there_are_missed_before_anything_is_edited(
    editors: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmig.run.evaluate.open_named", lambda *_, **__: pytest.fail("too late"))
    given = ["--protocol", "magicbrush", "--config", editors[0], "--data", f"multi-turn={tmp_path / 'none.yaml'}"]
    with pytest.raises(SystemExit, match=r"none\.yaml: cannot be read"):
        evaluate.main([*given, "--out", str(tmp_path / "out")])


def test_a_setting_may_be_for_some_of_them_alone(editors: list[str], tmp_path: Path) -> None:
    given = ["--config", *editors, "--data", str(write_data(tmp_path / "data", random_samples(2))), *METRICS]
    evaluate.main([*given, "--sampling", "no*:factor=0.5", "--out", str(tmp_path / "out")])
    settings = {name: json.loads((tmp_path / "out" / name / "metrics.json").read_text()) for name in ("noisy", "same")}
    assert settings["noisy"]["sampling"]["factor"] == 0.5 and "factor" not in settings["same"]["sampling"]
    with pytest.raises(SystemExit, match=r"--sampling other:factor=1: no system fits 'other'; there are noisy, same"):
        evaluate.main([*given, "--sampling", "other:factor=1", "--out", str(tmp_path / "none")])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["a=1", "x*:b=2"], {"x1": ["a=1", "b=2"], "x2": ["a=1", "b=2"], "y": ["a=1"]}),
        (["?2:text=a:b"], {"x1": [], "x2": ["text=a:b"], "y": []}),
        (["text=a:b"], {"x1": ["text=a:b"], "x2": ["text=a:b"], "y": ["text=a:b"]}),
    ],
)
def test_patterns_stand_before_the_setting(words: list[str], found: dict[str, list[str]]) -> None:
    assert sampling_of(words, ["x1", "x2", "y"]) == found
