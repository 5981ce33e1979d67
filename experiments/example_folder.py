"""A user's folder of pictures and table of edits: `python -m experiments.example_folder --out assets/example`.

Ordinary edits and outlines of the small world's training pairs. What is written is what is committed (a test compares).
"""

import argparse
import csv
from pathlib import Path

from datamodules.tinyworld.sample import make_sample
from mmig.base.commands import OptionParser, one_line_errors

SAMPLES = (*(("train", index) for index in range(4)), *(("outline", index) for index in range(8)))
"""Split and index of each."""
COLUMNS = ("source", "target", "instruction", "response", "edit_type")


def write_folder(out: Path) -> None:
    """Write `pictures/` and `edits.csv`.

    Raises:
        FileExistsError: the folder exists.
    """
    (out / "pictures").mkdir(parents=True)
    with (out / "edits.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for number, (split, index) in enumerate(SAMPLES):
            sample = make_sample(0, split, index, level="plain")
            names = {"source": f"{number:02}-before.png", "target": f"{number:02}-after.png"}
            for field, name in names.items():
                sample[field].save(out / "pictures" / name)
            table.writerow({name: names.get(name) or sample[name] for name in COLUMNS})


def main(arguments: list[str] | None = None) -> None:
    """Write the folder."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    with one_line_errors():
        write_folder(parser.parse_args(arguments).out)


if __name__ == "__main__":
    main()
