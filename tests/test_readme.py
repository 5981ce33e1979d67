"""Every command of the README and of docs/walk.md runs, in their order, in a copy; long ones in a short form."""

import re
import shlex
from pathlib import Path

import pytest

from experiments.short_forms import HEADING
from tests.documents import SMALL_WORLD, commands, copy_repository, furnish, run

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = (README, ROOT / "docs/walk.md")
MOST_LINES = 80
"""Two screens."""

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


def of_pages() -> list[str]:
    """The commands of all pages here, in order, without those that test_pages.py runs."""
    texts = [page.read_text(encoding="utf-8").split(HEADING)[0] for page in PAGES]
    return [command for text in texts for command in commands(text)]


def short_form(command: str) -> str:
    for pattern, replacement in SHORT_FORMS:
        command = re.sub(pattern, replacement, command)
    return command


@pytest.fixture(scope="module")
def copy(root: Path, files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as a clone has it, furnished."""
    folder = copy_repository(root, files, tmp_path_factory.mktemp("a clone") / "mmig")
    furnish(folder)
    return folder


@pytest.mark.timeout(600)  # the demo in its short form is seven processes
@pytest.mark.parametrize("command", of_pages())
def test_readme_command_runs(command: str, copy: Path) -> None:
    run(shlex.split(short_form(command)), copy)


def test_the_readme_names_the_two_commands_and_no_other() -> None:
    assert commands(README.read_text(encoding="utf-8")) == ["make demo", "make test"]


def test_the_readme_is_two_screens_at_most_and_opens_with_the_picture() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    assert 'src="assets/' in lines[2]


def test_links_in_documents_lead_somewhere(root: Path, files: list[Path]) -> None:
    broken = [
        f"{path}: {target}"
        for path in files
        if path.suffix == ".md"
        for target in re.findall(r'(?:\]\(|src=")([^)#\s"]+)', (root / path).read_text(encoding="utf-8"))
        if "://" not in target and not (root / path.parent / target).exists()
    ]
    assert broken == []
