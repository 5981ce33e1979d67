"""Pseudo words of subjects by class (figure 12 of UMM-Diffusion): a map by t-SNE, and how pure neighbourhoods are.

Purity is the share of a word's k nearest neighbours, by the angle in the space of words itself, that are of its class;
chance is the share among all others. The image embeddings that the words are made of stand beside. Shapes are what a
caption says; patterns and colours are what only a picture says. Writes purity.md and words.png (scikit-learn, of the
extra `bench`).

    python -m experiments.subject_results.pseudo_words --checkpoint RUN --data configs/data/subjects.yaml --out DIR
"""

import argparse
import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mmig.base.commands import OptionParser, one_line_errors, positive
from mmig.base.files import replacing, write_text
from mmig.evaluation.bootstrap import mean_interval
from mmig.evaluation.data import split_batches
from mmig.methods.umm_diffusion.editor import SubjectEditor
from mmig.methods.umm_diffusion.pipeline import UMMDiffusionPipeline

CLASSES = ("shape", "pattern", "colour")
"""Of a subject; the colour is that of the texture's ground."""
SPACES = ("pseudo word", "image embedding")
Vectors = NDArray[np.floating]


@dataclass(frozen=True)
class Subjects:
    """Subjects of a split, N.

    Attributes:
        vectors: by the name of the space, [N,D].
        labels: by the name of the class, N words.
        pictures: uint8 [N,h,w,3].
    """

    vectors: Mapping[str, Vectors]
    labels: Mapping[str, Sequence[str]]
    pictures: NDArray[np.uint8]


@torch.no_grad()
def read_subjects(editor: SubjectEditor, batches: Iterable[Mapping[str, Any]]) -> Subjects:
    """All subjects of the small world's samples with what the editor makes of them."""
    pictures, labels = [], []
    for batch in batches:
        for row, facts in enumerate(batch["metadata"]):
            for number, subject in enumerate(facts["subjects"]):
                pictures.append(batch["attachment_images"][row, number])
                labels.append((subject["thing"]["shape"], subject["texture"]["pattern"], subject["texture"]["first"]))
    images = torch.stack(pictures)
    vectors = [editor.pseudo_words(images[None])[0], editor.image_encoder(images.to(editor.text_encoder.device))]
    return Subjects(
        {space: found.cpu().numpy() for space, found in zip(SPACES, vectors, strict=True)},
        dict(zip(CLASSES, zip(*labels, strict=True), strict=True)),
        ((images + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy(),
    )


def purity(vectors: Vectors, labels: Sequence[str], neighbours: int) -> NDArray[np.float64]:
    """Share of each vector's nearest neighbours, by the angle between them, that have its label, [N]."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines, names = unit @ unit.T, np.array(labels)
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
    return (names[nearest] == names[:, None]).mean(axis=1)


def chance(labels: Sequence[str]) -> float:
    """The same of neighbours that are drawn blindly."""
    names = np.array(labels)
    others = len(names) - 1
    return float(np.mean([((names == name).sum() - 1) / others for name in names]))


def table(subjects: Subjects, neighbours: int) -> str:
    """Markdown: a line a class."""
    lines = [f"| class | n | chance | {' | '.join(f'{space}, k = {neighbours}' for space in SPACES)} |"]
    lines.append(f"|{'---|' * (3 + len(SPACES))}")
    for name, labels in subjects.labels.items():
        found = [mean_interval(purity(subjects.vectors[space], labels, neighbours)) for space in SPACES]
        cells = " | ".join(each.told(".3f") for each in found)
        lines.append(f"| {name} | {len(labels)} | {chance(labels):.3f} | {cells} |")
    return "\n".join(lines)


def embedded(vectors: Vectors) -> Vectors:
    """The vectors on a plane by t-SNE (van der Maaten & Hinton 2008), the same each time, [N,2]."""
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(vectors) - 1) / 3)
    return TSNE(metric="cosine", perplexity=perplexity, init="random", random_state=0).fit_transform(vectors)


def draw_words(points: Vectors, subjects: Subjects, path: Path) -> None:
    """The plane, once in the colours of each class and once with the subjects' pictures."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    columns, hues = len(CLASSES) + 1, mpl.colormaps["tab20"]
    figure, grid = plt.subplots(1, columns, figsize=(5 * columns, 5), dpi=120, layout="constrained")
    for axes, name in zip(grid, CLASSES, strict=False):
        labels = np.array(subjects.labels[name])
        for number, label in enumerate(sorted(set(labels))):
            axes.scatter(*points[labels == label].T, s=8, color=hues(number), label=label)
        axes.legend(frameon=False, fontsize="small", title=name)
    grid[-1].scatter(*points.T, s=0)  # for the limits: pictures do not count
    for point, picture in zip(points, subjects.pictures, strict=True):
        zoom = 14 / picture.shape[0]
        grid[-1].add_artist(AnnotationBbox(OffsetImage(picture, zoom=zoom), point, frameon=False))
    for axes in grid:
        axes.set(xticks=[], yticks=[])
    figure.savefig(path)
    plt.close(figure)


def main(arguments: list[str] | None = None) -> None:
    """Read, measure, draw."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="a run of UMM-Diffusion, or what was exported of one")
    parser.add_argument("--data", type=Path, required=True, help="configuration of the small world's subjects")
    parser.add_argument("--split", default="test", help="of the data (default: test)")
    parser.add_argument("--limit", type=positive, default=400, help="samples (default: 400)")
    parser.add_argument("--neighbours", type=positive, default=10, help="k (default: 10)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table and the picture")
    options = parser.parse_args(arguments)
    with one_line_errors():
        if importlib.util.find_spec("sklearn") is None:
            raise ValueError("t-SNE needs scikit-learn, not found here; pip install -e '.[bench]'")
        editor = UMMDiffusionPipeline.from_pretrained(options.checkpoint).editor
        subjects = read_subjects(editor, split_batches(options.data, options.split, limit=options.limit))
    told = table(subjects, options.neighbours)
    write_text(options.out / "purity.md", f"{told}\n")
    sys.stdout.write(f"{told}\n")
    with replacing(options.out / "words.png") as temporary:
        draw_words(embedded(subjects.vectors[SPACES[0]]), subjects, temporary)


if __name__ == "__main__":
    main()
