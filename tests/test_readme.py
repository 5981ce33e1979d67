"""Every command of the README runs, in the README's order, in a copy of the repository; long ones in a short form."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from tests import warm
from tests.datamodules.convert.layouts import ipr2pr_files, write

README = Path(__file__).resolve().parent.parent / "README.md"

SMALL_WORLD = {"train_count": 48, "val_count": 16, "test_count": 8}
"""Sizes of the small world in the copy's configs/data/plain.yaml; everything reads them from there."""

SHORT_FORMS = [
    (r"^make demo$", "python -m experiments.demo --short"),
    (r"^make test$", "make --dry-run test"),  # these tests are running already
    (r"--count \d+", f"--count {SMALL_WORLD['train_count']}"),
    (r"(datamodules\.convert .*)", r"\1 --partial"),  # of InstructPix2Pix a few prompts
    # Published backbones need the network and a GPU: the tiny ones go the same way.
    (r"configs/mmig/stage\d\.yaml", "configs/demo/stage1.yaml"),
    (r"(configs/trainer/ddp\.yaml)", r"\1 --trainer.accelerator cpu --trainer.devices 1 --trainer.precision 32-true"),
    (r"^(python train\.py fit (?!--help).*)$", r"\1 --trainer.max_steps 2 --trainer.val_check_interval 2"),
    (r"^(python train\.py fit (?!--help).*)$", r"\1 --model.init_args.sampling.num_steps 2"),
]
"""Declared short forms: pattern of a command and what stands in its place; applied one after the other."""


def commands() -> list[str]:
    """Lines of the README's bash blocks, without comments."""
    blocks = re.findall(r"```bash\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [command for line in lines if (command := line.split("  #")[0].split(" # ")[0].strip())]


def short_form(command: str) -> str:
    for pattern, replacement in SHORT_FORMS:
        command = re.sub(pattern, replacement, command)
    return command


@pytest.fixture(scope="module")
def copy(root: Path, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a clone has it, a small world, shards of one's own and a picture to edit."""
    folder = tmp_path_factory.mktemp("a clone") / "mmig"
    for path in files:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / path, folder / path)
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
    return folder


@pytest.mark.timeout(600)  # the demo in its short form is seven processes
@pytest.mark.parametrize("command", commands())
def test_readme_command_runs(command: str, copy: Path) -> None:
    words = shlex.split(short_form(command))
    words = [warm.python() if word == "python" else word for word in words]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


def test_the_readme_names_the_two_commands() -> None:
    assert {"make demo", "make test"} <= set(commands())


def test_links_in_documents_lead_somewhere(root: Path, files: list[Path]) -> None:
    broken = [
        f"{path}: {target}"
        for path in files
        if path.suffix == ".md"
        for target in re.findall(r"\]\(([^)#\s]+)", (root / path).read_text(encoding="utf-8"))
        if "://" not in target and not (root / path.parent / target).exists()
    ]
    assert broken == []
