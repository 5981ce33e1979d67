"""What tests do with documents: their commands, and a copy of the repository to run these in."""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from tests import warm
from tests.datamodules.convert.layouts import ipr2pr_files, write

SMALL_WORLD = {"train_count": 48, "val_count": 16, "test_count": 8}
"""Sizes of the small world in a copy's configs/data/plain.yaml and demo.yaml; everything reads them from there."""


def commands(text: str) -> list[str]:
    """Lines of the text's bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.split("  #")[0].split(" # ")[0].strip())]


def copy_repository(root: Path, files: Iterable[Path], folder: Path) -> Path:
    """Fill a folder with the repository as a clone has it."""
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, folder / path)
    return folder


def furnish(folder: Path) -> None:
    """Give a copy a smaller small world, shards of one's own, a picture to edit and a published data set in small."""
    for name in ("plain", "demo"):
        config = folder / f"configs/data/{name}.yaml"
        content = yaml.safe_load(config.read_text(encoding="utf-8"))
        content["data"]["init_args"].update(SMALL_WORLD)
        config.write_text(yaml.safe_dump(content), encoding="utf-8")
    for split in ("train", "val", "test"):
        samples = (make_sample(0, split, index, level="plain") for index in range(24))
        write_shards(samples, folder / "data" / "shards" / split, samples_per_shard=16)
    make_sample(0, "test", 0, level="plain")["source"].save(folder / "source.png")
    write(folder / "downloads" / "instruct-pix2pix", ipr2pr_files(prompts=20))


def run(words: Sequence[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, `python` being this one; whatever fails fails the test with what was said."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    started = [warm.python() if word == "python" else word for word in words]
    result = subprocess.run(started, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result
