r"""UMM-Diffusion beside what else draws a subject: quality on the same samples, and seconds of preparation a subject.

Each method is NAME=FOLDER of an evaluation by evaluate.py, once more for each training seed; samples count that all
have, the first method is what the others are held against. --ours times the one forward that UMM-Diffusion needs for a
subject, from the picture to the pseudo word, on this machine as it is.

    python -m experiments.subject_results.methods --ours runs/umm_diffusion-umm-0 --out evaluations/methods.md \
      umm=runs/umm_diffusion-umm-0/test/chosen dreambooth=evaluations/dreambooth
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import torch

from experiments.side_by_side import named_folder
from experiments.subject_results.balance import BALANCED, Scores, balance, gain, scores_of, values_of
from mmig.base.commands import OptionParser, one_line_errors
from mmig.base.files import write_text
from mmig.evaluation.bootstrap import mean_interval
from mmig.evaluation.finished import read_finished
from mmig.evaluation.rows import by_key
from mmig.methods.umm_diffusion.editor import SubjectEditor
from mmig.methods.umm_diffusion.pipeline import UMMDiffusionPipeline

SECONDS = "preparation_seconds"
COLUMNS = (*BALANCED, "subject_and_text", "clip_image_similarity_reference")
TIMINGS = 20
"""Forwards, of which the median counts; the first warms up."""


def read_methods(given: Sequence[str]) -> dict[str, list[Scores]]:
    """Scores of each method's evaluations, seconds among them where they were scored.

    Raises:
        ValueError: another form, a folder twice, or no evaluation there.
    """
    methods: dict[str, list[Scores]] = {}
    pairs = [named_folder(text) for text in given]
    evaluations = read_finished([folder for _, folder in pairs])
    for (name, _), evaluation in zip(pairs, evaluations, strict=True):
        scores = {**scores_of(evaluation), SECONDS: by_key(evaluation.rows, SECONDS)}
        methods.setdefault(name, []).append(scores)
    return methods


def shared_keys(methods: Mapping[str, Sequence[Scores]]) -> list[str]:
    """Samples that every evaluation has.

    Raises:
        ValueError: there are none.
    """
    keys = set.intersection(*(set(run.get(BALANCED[0], {})) for runs in methods.values() for run in runs))
    if not keys:
        raise ValueError(f"expected samples with {BALANCED[0]} that all evaluations share, found none")
    return sorted(keys)


def forward_seconds(editor: SubjectEditor) -> float:
    """Seconds from one picture to its pseudo word, the median of some."""
    picture = torch.zeros(1, 1, 3, editor.attachment_size, editor.attachment_size)
    found = []
    with torch.no_grad():
        for _ in range(TIMINGS + 1):
            started = time.perf_counter()
            editor.pseudo_words(picture)
            found.append(time.perf_counter() - started)
    return median(found[1:])


def table(methods: Mapping[str, Sequence[Scores]], seconds: Mapping[str, float]) -> str:
    """Markdown: a line a method.

    Args:
        methods: scores of each one's evaluations. seconds: of preparation, of those that did not score it.
    """
    keys, first = shared_keys(methods), next(iter(methods))
    lines = [f"| {len(keys)} samples | harmonic mean | minus {first} | {' | '.join((*COLUMNS, SECONDS))} |"]
    lines.append(f"|{'---|' * (4 + len(COLUMNS))}")
    for name, runs in methods.items():
        found = [balance(runs, keys), gain(runs, methods[first], keys)]
        found += [mean_interval(values_of(runs, metric, keys)) for metric in COLUMNS]
        timed = [value for run in runs for value in run[SECONDS].values()]
        spent = f"{sum(timed) / len(timed):.3g}" if timed else f"{seconds[name]:.3g}" if name in seconds else "-"
        lines.append(f"| {name} | {' | '.join([*(each.told('.3f') for each in found), spent])} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Read, time, write."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="+", help="NAME=FOLDER, once for each seed")
    parser.add_argument("--ours", help="run of UMM-Diffusion, of the first method")
    parser.add_argument("--out", type=Path, required=True, help="Markdown file")
    options = parser.parse_args(arguments)
    with one_line_errors():
        methods, seconds = read_methods(options.methods), {}
        if options.ours is not None:
            seconds[next(iter(methods))] = forward_seconds(UMMDiffusionPipeline.from_pretrained(options.ours).editor)
        told = table(methods, seconds)
    write_text(options.out, f"{told}\n")
    sys.stdout.write(f"{told}\n")


if __name__ == "__main__":
    main()
