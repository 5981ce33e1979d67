"""What evaluate.py puts beside its own figures: another evaluation (--compare) and published tables (--published)."""

from pathlib import Path

import pytest

import evaluate


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "--compare .*old: no samples.jsonl there; give the --out folder"),
        (b"", "samples.jsonl, line 1: expected a row of evaluate.py, found ''"),
        (b'{"key": "a", "seed": 0, "edit_type": "", "values": 3}\n', "samples.jsonl, line 1"),
        (b"\xff\xfe\n", "samples.jsonl, line 1"),
    ],
)
def test_what_to_compare_with_is_read_before_anything_is_edited(
    content: bytes | None,
    message: str,
    run_directory: Path,
    data_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "old").mkdir()
    if content is not None:
        (tmp_path / "old" / "samples.jsonl").write_bytes(content)
    monkeypatch.setattr("mmig.run.evaluate.open_named", lambda *_, **__: pytest.fail("too late"))
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=message):
        evaluate.main([*given, "--compare", str(tmp_path / "old")])


def test_an_unknown_published_table_is_named_before_anything_is_edited(
    run_directory: Path, data_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmig.run.evaluate.open_named", lambda *_, **__: pytest.fail("too late"))
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"published numbers: 'emu' is unknown; expected one of emu_edit"):
        evaluate.main([*given, "--published", "emu"])


def test_published_tables_are_printed_apart_with_their_doubts(
    run_directory: Path, data_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--checkpoint", str(run_directory), "--data", str(data_config), "--metrics", "l1_target"]
    evaluate.main([*given, "--out", str(tmp_path), "--published", "emu_edit"])
    assert "0.109?" in capsys.readouterr().out
