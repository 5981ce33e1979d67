"""What evaluate.py puts beside its own figures: another evaluation (--compare)."""

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
