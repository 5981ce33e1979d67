"""The commands of docs/finetune.md run in its order, on a user's folder of pictures and the tiny backbones."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from datamodules.tinyworld.sample import make_sample
from mmig.methods.mmig.stages.finetune import Updates
from tests import warm

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/finetune.md"

DEMO = "python -m experiments.finetune_demo"
"""Repeats the page's other commands on data of its own; what it runs is in tests/experiments/test_finetune_demo.py."""

TINY = {
    "backbones.diffusion": "assets/tiny/stable-diffusion",
    "backbones.unet": "assets/tiny/instruct-pix2pix",
    "backbones.llm": "assets/tiny/llama",
    "backbones.vision": "assets/tiny/clip-vision",
    "backbones.dtype": "float32",
    "sampling.num_steps": "2",
    "mmsm.dim": "32",
    "mmsm.heads": "2",
}
NO_GPU = {"model.init_args.backbones.quantise_llm": "none", "model.init_args.optimizer.kind": "adamw"}
SMALL = {"data.init_args.resolution": "64", "data.init_args.num_workers": "0", "data.init_args.global_batch_size": "4"}
ON_CPU = {"trainer.accelerator": "cpu", "trainer.precision": "32-true", "trainer.max_steps": "2"}


def commands() -> list[str]:
    """Lines of the page's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line]


def short_form(command: str) -> list[str]:
    """The command with the small world's sizes: published backbones need the network and a GPU."""
    words = shlex.split(command)
    if command == DEMO:
        return [warm.python(), *words[1:], "--short"]
    more: dict[str, str] = {}
    if "configs/finetune/decoder.yaml" in words:
        more = {"model.init_args.vae": TINY["backbones.diffusion"]} | SMALL
    elif any(word.startswith("configs/finetune/") for word in words):
        more = {f"model.init_args.{name}": value for name, value in TINY.items()} | NO_GPU | SMALL
    if "train.py" in words:
        more |= ON_CPU | {"trainer.val_check_interval": "2"}
    return [warm.python(), *words[1:], *(word for name, value in more.items() for word in (f"--{name}", value))]


@pytest.fixture(scope="module")
def copy(root: Path, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a clone has it, with a user's pictures and table."""
    folder = tmp_path_factory.mktemp("a clone") / "mmig"
    for path in files:
        if path.parts[0] not in ("tests", "bench", "slurm"):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, folder / path)
    pictures = folder / "my" / "pictures"
    pictures.mkdir(parents=True)
    rows = ["source,target,instruction,response"]
    for number in range(8):
        sample = make_sample(1, "outline", number, photographs=False)
        for side, image in (("a", sample["source"]), ("b", sample["target"])):
            image.save(pictures / f"{number}{side}.png")
        response = sample["response"] if number % 2 else ""
        rows.append(f'{number}a.png,{number}b.png,"{sample["instruction"]}","{response}"')
    (folder / "my" / "edits.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "command", [pytest.param(each, marks=[pytest.mark.slow] if each == DEMO else []) for each in commands()]
)
def test_command_of_the_page_runs(command: str, copy: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    words = short_form(command)
    result = subprocess.run(words, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{shlex.join(words)}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"


def test_the_page_names_settings_with_their_defaults() -> None:
    updates = Updates()
    assert (updates.unet.rank, updates.llm.rank, updates.unet.alpha, updates.unet.dropout) == (16, 0, None, 0.0)
    text = DOCUMENT.read_text(encoding="utf-8")
    assert "| `lora.unet.rank`, `lora.llm.rank` | `16`, `0` |" in text
