"""The page is a leaf: without its folder everything else is what it was."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.mmig.app.conftest import encoded, picture


def test_without_the_folder_of_the_page_edit_py_edits(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "mmig", tmp_path / "mmig", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.rmtree(tmp_path / "mmig" / "app")
    for name in ("datamodules", "assets", "configs", "edit.py", "pyproject.toml"):
        (tmp_path / name).symlink_to(root / name)
    shutil.copyfile(root / "edit.py", (tmp_path / "program.py"))
    (tmp_path / "in.png").write_bytes(encoded(picture(1)))
    command = ["program.py", "--config", "configs/editors/tiny_instruction.yaml", "--image", "in.png"]
    command += ["--instruction", "make it night", "--steps", "1", "--out", "out.png"]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").is_file()


def test_help_needs_nothing_that_is_heavy(root: Path) -> None:
    lines = [
        "import sys",
        "sys.argv = ['app', '--help']",
        "from mmig.app.__main__ import main",
        "try: main()",
        "except SystemExit: pass",
        "assert not {'torch', 'gradio', 'diffusers'} & {*sys.modules}",
    ]
    code = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "--checkpoint" in done.stdout
