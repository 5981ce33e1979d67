"""Train, validate, test or predict with any configuration: `python train.py fit --config ... --name NAME`."""

import sys

from mmig.base.commands import OptionParser, one_line_errors

COMMANDS = {
    "fit": "train, or continue a run: the same command again resumes it",
    "validate": "every loss term on the validation set, by timestep range too",
    "test": "every loss term on the test set",
    "predict": "write edited images to runs/NAME/predictions",
}


def print_overview() -> None:
    """Say what there is without importing torch; `train.py fit --help` lists every option."""
    parser = OptionParser(
        description="Train, validate, test or predict with any method of this repository.",
        epilog="Example: python train.py fit --config configs/mmig/stage1.yaml "
        "--config configs/data/plain.yaml --name stage1. `python train.py fit --help` lists every option; "
        "any value of a config can be overridden, as in --trainer.max_steps 100 --model.optimizer.lr 1e-4.",
    )
    commands = parser.add_subparsers(metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    parser.print_help()


if __name__ == "__main__":
    if sys.argv[1:] in ([], ["-h"], ["--help"]):
        print_overview()
    else:
        with one_line_errors():  # Ctrl-C while this is imported
            from mmig.run.cli import main

            main()
