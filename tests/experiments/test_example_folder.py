"""The committed folder of a user's pictures is what its command writes."""

from pathlib import Path

from PIL import Image, ImageChops

from experiments.example_folder import write_folder


def test_the_committed_folder_is_what_the_command_writes(root: Path, tmp_path: Path) -> None:
    committed, written = root / "assets/example", tmp_path / "example"
    write_folder(written)
    names = sorted(path.relative_to(written) for path in written.rglob("*.*"))
    assert names == sorted(path.relative_to(committed) for path in committed.rglob("*.*"))
    assert (committed / "edits.csv").read_text() == (written / "edits.csv").read_text()
    for name in names:
        if name.suffix == ".png":
            with Image.open(committed / name) as first, Image.open(written / name) as second:
                assert ImageChops.difference(first, second).getbbox() is None, name
