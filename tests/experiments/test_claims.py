"""`python -m experiments.claims`: evaluations on disk, other data, missing seeds, and claims written afterwards."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.claims import LATE, main
from mmig.evaluation.rows import SampleRow

ENTRY = {"name": "better", "says": "one is better", "first": "one-{seed}", "second": "other-{seed}", "data": "d.yaml"}


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b"]
    return subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose first commit holds the claim."""
    (tmp_path / "docs").mkdir()
    write_claims(tmp_path, ENTRY)
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "the claim")
    return tmp_path


def write_claims(folder: Path, *entries: dict[str, Any]) -> None:
    (folder / "docs" / "claims.yaml").write_text(yaml.safe_dump({"claims": list(entries)}), encoding="utf-8")


def write_evaluation(folder: Path, right: int, commit: str, data: str = "d.yaml", **more: Any) -> None:
    """Of 600 samples, of which the first `right` are so."""
    folder.mkdir()
    rows = [SampleRow(f"k{number}", 0, "", {"joint": float(number < right)}) for number in range(600)]
    lines = "".join(json.dumps(row.to_dict()) + "\n" for row in rows)
    (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
    facts = {"data": {"config": data}, "split": "test", "commit": commit, **more}
    (folder / "metrics.json").write_text(json.dumps(facts), encoding="utf-8")


def verdicts(repository: Path, capsys: pytest.CaptureFixture[str]) -> tuple[list[dict[str, Any]], str]:
    out = repository / "out.json"
    main(["--file", str(repository / "docs" / "claims.yaml"), "--root", str(repository), "--out", str(out)])
    return json.loads(out.read_text(encoding="utf-8"))["claims"], " ".join(capsys.readouterr().out.split())


def measure(repository: Path, commit: str, **settings: Any) -> None:
    for seed in range(3):
        write_evaluation(repository / f"one-{seed}", 300 + seed, commit, **settings)
        write_evaluation(repository / f"other-{seed}", 200, commit)


def test_a_claim_is_shown_once_every_seed_is_there(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert verdicts(repository, capsys)[0][0]["verdict"] == "not measured"
    measure(repository, commit)
    (found,), printed = verdicts(repository, capsys)
    assert found["verdict"] == "shown" and found["n"] == 600 and not found["late"]
    assert found["difference"][0] == pytest.approx(301 / 600 - 200 / 600)
    assert found["by_seed"] == pytest.approx([100 / 600, 101 / 600, 102 / 600])
    assert "one is better" in printed and "shown" in printed


def test_arms_that_were_evaluated_in_other_precisions_are_no_pair(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    measure(repository, commit, precision="bf16-mixed")
    (found,), _ = verdicts(repository, capsys)
    assert found["verdict"] == "not measured" and "bf16-mixed" in found["note"] and "32-true" in found["note"]


def test_the_precision_of_before_there_was_a_choice_is_single(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    measure(repository, git(repository, "rev-parse", "HEAD"), precision="32-true")
    assert verdicts(repository, capsys)[0][0]["verdict"] == "shown"


def test_other_data_do_not_count(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(repository, git(repository, "rev-parse", "HEAD"), data="easier.yaml")
    (found,), _ = verdicts(repository, capsys)
    assert found["verdict"] == "not measured" and "easier.yaml" in found["note"]


def test_arms_may_be_of_other_data_with_the_same_keys_where_the_claim_says_so(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_claims(repository, ENTRY | {"data": "said.yaml", "second_data": "d.yaml", "margin": -0.05})
    git(repository, "commit", "-qam", "another claim")
    measure(repository, git(repository, "rev-parse", "HEAD"), data="said.yaml")
    assert verdicts(repository, capsys)[0][0]["verdict"] == "shown"
    write_claims(repository, ENTRY | {"data": "said.yaml", "second_data": "heard.yaml"})
    outcome, _ = verdicts(repository, capsys)
    assert outcome[0]["verdict"] == "not measured"
    assert outcome[0]["note"] == "other-{seed}: evaluated on the data d.yaml, claimed is heard.yaml"


def test_a_claim_that_was_changed_afterwards_is_marked(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(repository, git(repository, "rev-parse", "HEAD") + "+changes")
    other = ENTRY | {"name": "new", "says": "another one"}
    write_claims(repository, ENTRY | {"margin": 0.1}, other)
    git(repository, "commit", "-qam", "what was found")
    found, printed = verdicts(repository, capsys)
    assert [entry["late"] for entry in found] == [True, True]
    assert LATE.split()[0] in printed
    write_claims(repository, ENTRY, other)
    found, _ = verdicts(repository, capsys)
    assert [entry["late"] for entry in found] == [False, True]
