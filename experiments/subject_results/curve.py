"""UMM-Diffusion's subjects against its texts over the fuse ratio: which one is best, and whether it beats both ends.

Reads what `python -m experiments.comparison configs/results/umm_diffusion` left of some training seeds. The fuse ratio
with the best harmonic mean of fidelity and alignment on validation is chosen and tested on the other parts against 0
and 1; a link `chosen` beside its evaluations leads to those at it (docs/claims.yaml). Writes curve.md and curve.png.

    python -m experiments.subject_results.curve runs/umm_diffusion-umm-0 runs/umm_diffusion-umm-1 --out DIR
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.subject_results.balance import (
    SETTING,
    Curve,
    Subset,
    best_point,
    draw_subject_curves,
    read_curve,
    table,
    tests,
)
from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.files import replacing, write_text
from mmig.evaluation.data import split_batches
from mmig.evaluation.finished import Finished

CHOICE = "val"
LINK = "chosen"
COUNTS = {"all": (1, 2), "one": (1,), "two": (2,)}
"""Subsets, by the number of subjects in the text."""


def num_subjects(evaluation: Finished) -> dict[str, int]:
    """How many subjects each sample has that was evaluated, by key; the data are read once more."""
    report = evaluation.report
    batches = split_batches(Path(report["data"]["config"]), report["split"], limit=report["limit"])
    return {
        key: len(facts["subjects"])
        for batch in batches
        for key, facts in zip(batch["key"], batch["metadata"], strict=True)
    }


def subsets_of(part: str, evaluation: Finished) -> list[Subset]:
    """Those that have samples."""
    counted = num_subjects(evaluation)
    keys = {name: [key for key in evaluation.keys if counted[key] in counts] for name, counts in COUNTS.items()}
    return [Subset(part, name, found) for name, found in keys.items() if found]


def lay_links(runs: Sequence[Path], part: str, curve: Curve, chosen: float) -> None:
    """In each run beside the evaluations of a part a link to the chosen one, where there is one."""
    for folder in (run / part for run in runs):
        names = {float(point.name.partition("=")[2]): point.name for point in folder.glob(f"{SETTING}=*")}
        (folder / LINK).unlink(missing_ok=True)
        if chosen in curve:
            (folder / LINK).symlink_to(names[chosen])


def main(arguments: list[str] | None = None) -> None:
    """Choose, test, write."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="of one row, with different training seeds")
    parser.add_argument("--parts", nargs="+", default=["test", "unseen"], help="where it is tested (test unseen)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the picture")
    options = parser.parse_args(arguments)
    with one_line_errors():
        choosing, evaluation = read_curve(options.runs, CHOICE)
        chosen = best_point(choosing, evaluation.keys)
        read = {part: read_curve(options.runs, part) for part in options.parts}
        curves = {CHOICE: choosing, **{part: curve for part, (curve, _) in read.items()}}
        tested = [subset for part, (_, found) in read.items() for subset in subsets_of(part, found)]
        told = [
            f"Chosen on validation: fuse ratio {chosen:g}, by the harmonic mean; {len(options.runs)} training seeds.",
            tests(curves, tested, chosen),
            table(curves, [Subset(CHOICE, "all", evaluation.keys), *tested]),
        ]
    for part, curve in curves.items():
        lay_links(options.runs, part, curve, chosen)
    write_text(options.out / "curve.md", "\n\n".join(told) + "\n")
    with replacing(options.out / "curve.png") as temporary:
        draw_subject_curves(curves, tested, chosen, temporary)
    sys.stdout.write("\n\n".join(told) + "\n")


if __name__ == "__main__":
    main()
