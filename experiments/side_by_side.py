"""A figure of the same samples edited by several systems: source, each system's picture, target, a row a sample.

    python -m experiments.side_by_side NAME=EVALUATION [NAME=EVALUATION ...] --out FILE.png [--rows 8] [--by-key]

Reads the pictures that evaluate.py kept (`--keep-pictures`). Taken are the first samples, by key, of as many types of
edit as there are rows: nobody has chosen them. With --by-key they may be of different data whose samples have the same
keys, one edit that is asked for in several ways.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.files import replacing
from mmig.evaluation.finished import Finished, check_comparable, check_scored_alike, read_finished
from mmig.evaluation.page.chosen import some_of_each


def named_folder(option: str) -> tuple[str, str]:
    """Name and folder of NAME=FOLDER; ValueError on another form."""
    name, _, folder = option.partition("=")
    if not name or not folder:
        raise ValueError(f"{option}: expected NAME=FOLDER of an evaluation")
    return name, folder


def named_folders(options: Sequence[str]) -> dict[str, str]:
    """Folders by name of NAME=FOLDER options; ValueError on another form, or a name twice."""
    folders: dict[str, str] = {}
    for name, folder in map(named_folder, options):
        if name in folders:
            raise ValueError(f"{name}: given twice; each system needs a name of its own")
        folders[name] = folder
    return folders


def read_named(options: Sequence[str], by_key: bool = False) -> dict[str, Finished]:
    """The evaluations of NAME=FOLDER options, of the same samples.

    Args:
        options: in the order of the columns.
        by_key: whether samples are the same if their keys are, whatever the data.

    Raises:
        ValueError: an option of another form, a name twice, no finished evaluation, or ones of other samples.
    """
    folders = named_folders(options)
    evaluations = read_finished(list(folders.values()))
    (check_scored_alike if by_key else check_comparable)(evaluations)
    return dict(zip(folders, evaluations, strict=True))


def shown_keys(evaluations: Sequence[Finished], rows: int) -> list[str]:
    """Samples of which every system has kept a picture, as many of each type of edit as possible.

    Raises:
        ValueError: there is none.
    """
    types = {
        row.key: row.edit_type
        for row in evaluations[0].rows
        if all(evaluation.picture(row.key, 0) is not None for evaluation in evaluations)
    }
    if not types:
        folders = ", ".join(str(evaluation.directory) for evaluation in evaluations)
        raise ValueError(f"{folders}: expected kept pictures of one sample in all, found none; give --keep-pictures")
    return some_of_each(types, rows)


def draw(evaluations: dict[str, Finished], keys: Sequence[str], path: Path) -> None:
    """Write the figure."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    first = next(iter(evaluations.values()))
    asked = {row.key: row.instruction for row in first.rows}
    heads = ["source", *evaluations, "target"]
    size = (1.3 * len(heads) + 1.6, 1.35 * len(keys) + 0.3)
    figure, grid = plt.subplots(len(keys), len(heads), figsize=size, dpi=120, layout="constrained", squeeze=False)
    for axes, key in zip(grid, keys, strict=True):
        edited = [evaluation.picture(key, 0) for evaluation in evaluations.values()]
        files = [first.original("source", key), *edited, first.original("target", key)]
        for cell, file in zip(axes, files, strict=True):
            cell.set(xticks=[], yticks=[])
            if file is not None:
                cell.imshow(Image.open(file).convert("RGB"), interpolation="nearest")
        axes[0].set_ylabel(asked[key], rotation=0, ha="right", va="center", fontsize=7, wrap=True)
    for cell, head in zip(grid[0], heads, strict=True):
        cell.set_title(head, fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Read, choose, draw."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("systems", nargs="+", metavar="NAME=FOLDER", help="evaluations, in the order of the columns")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--rows", type=positive, default=8, help="samples (default: 8)")
    parser.add_argument("--by-key", action="store_true", help="of different data with the same keys")
    options = parser.parse_args(arguments)
    with one_line_errors():
        evaluations = read_named(options.systems, options.by_key)
        draw(evaluations, shown_keys(list(evaluations.values()), options.rows), options.out)


if __name__ == "__main__":
    main()
