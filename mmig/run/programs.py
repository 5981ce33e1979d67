"""train.py, evaluate.py and edit.py of a clone; mmig-train, mmig-evaluate and mmig-edit of an installation.

What a user can mend ends in one line, not in a traceback (MMIG_TRACEBACK=1 shows it). No help imports what is heavy.
"""

import logging
import shlex
import sys
from pathlib import Path

from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.paths import resolved
from mmig.base.processor import share_cores
from mmig.run import edit_parser, evaluate_parser

EDIT = """Edit one image with one instruction, or draw one; pictures and sounds may be attached.

Examples:
    python edit.py --checkpoint runs/NAME --image IN.png --instruction "make the ball blue" --out OUT.png
    python edit.py --config configs/editors/oracle_text.yaml --instruction "a red circle" --out OUT.png
"""
TRAINING = {
    "fit": "train, or continue a run: the same command again resumes it",
    "validate": "every loss term on the validation set, by timestep range too",
    "test": "every loss term on the test set",
    "predict": "write edited images to runs/NAME/predictions",
}


def train() -> None:
    """Run train.py with the arguments of this process."""
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        _print_overview()
    else:
        sys.argv[1:] = with_shipped(sys.argv[1:])
        with one_line_errors():  # Ctrl-C while this is imported
            from mmig.run.cli import main

            main()


def with_shipped(words: list[str]) -> list[str]:
    """A command line whose `--config` files that are not here are the shipped ones, where there are such."""
    found, option = list(words), "--config="
    for place, word in enumerate(words):
        joined = word.startswith(option)
        if joined or words[place - 1 : place] == ["--config"]:
            path = word.removeprefix(option)
            shown = path if Path(path).exists() else str(resolved(path))
            found[place] = option + shown if joined else shown
    return found


def _print_overview() -> None:
    """Say what there is without importing torch; `train.py fit --help` lists every option."""
    parser = OptionParser(
        description="Train, validate, test or predict with any method of this repository.",
        epilog="Example: python train.py fit --config configs/mmig/stage1.yaml "
        "--config configs/data/plain.yaml --name stage1. `python train.py fit --help` lists every option; "
        "any value of a config can be overridden, as in --trainer.max_steps 100 --model.optimizer.lr 1e-4.",
    )
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, text in TRAINING.items():
        commands.add_parser(name, help=text)
    parser.print_help()


def evaluate(arguments: list[str] | None = None) -> None:
    """Run evaluate.py with these arguments; without any with those of this process."""
    given = sys.argv[1:] if arguments is None else arguments
    compares = given[:1] == ["compare"]
    parser = evaluate_parser.build_compare_parser() if compares else evaluate_parser.build_parser()
    parsed = parser.parse_args(given[1:] if compares else given)
    for option in () if compares else ("clip", "lpips", "features"):
        if len(getattr(parsed, option) or ()) > 2:
            parser.error(f"--{option} takes a name and at most one name of weights")
    parsed.command = shlex.join(["python", "evaluate.py", *given])
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for package in ("mmig", "datamodules", "experiments"):
        logging.getLogger(package).setLevel(logging.INFO)
    if not compares:
        share_cores()  # its thread imports torch, which comparing does without
    with one_line_errors():
        if compares:
            from mmig.run.compare import run
        else:
            from mmig.run.evaluate import run

        run(parsed)


def edit(arguments: list[str] | None = None) -> None:
    """Run edit.py with these arguments; without any with those of this process."""
    parsed = edit_parser.build_parser(EDIT).parse_args(arguments)
    share_cores()
    with one_line_errors():
        from mmig.run.edit import run

        run(parsed)
