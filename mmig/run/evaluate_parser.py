"""Score edits: metrics with intervals, per edit type, and a picture. Of a run, or without one of any editor in a YAML.

Examples:
    python evaluate.py --checkpoint runs/NAME --data configs/data/plain.yaml --split test --seeds 2 --out DIR
    python evaluate.py --config configs/editors/identity.yaml --data configs/data/plain.yaml --out DIR
    python evaluate.py --protocol magicbrush --checkpoint runs/NAME --out DIR
    python evaluate.py compare DIR OTHER_DIR --out DIFFERENCES
"""

import argparse

from mmig.base.commands import OptionParser, natural, positive

PRECISIONS = ("32-true", "bf16-mixed", "auto")


def build_parser() -> argparse.ArgumentParser:
    """The command line; nothing heavy is imported to show its help."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _add_systems(parser)
    _add_samples(parser)
    parser.add_argument(
        "--out",
        required=True,
        help="folder for report.html, metrics.json, samples.jsonl and pictures; the same command goes on with an "
        "evaluation that did not end there",
    )
    parser.add_argument("--batch-size", type=positive, help="samples edited at once (default: the data's)")
    _add_scoring(parser)
    parser.add_argument("--compare", help="folder of another evaluation: print paired differences to it")
    parser.add_argument(
        "--sampling",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other sampling settings, as response=generated; of some systems alone: 'PATTERN:NAME=VALUE'",
    )
    parser.add_argument(
        "--grid",
        nargs="+",
        default=[],
        metavar="NAME=VALUE,VALUE",
        help="an evaluation at each of these sampling settings, as image_guidance_scale=1.0,1.4,1.8, and their curve",
    )
    parser.add_argument(
        "--layered",
        action="store_true",
        help="edit in layers (MMIG): fit the embeddings of object and background to each image first",
    )
    parser.add_argument("--turns", action="store_true", help="edit sessions turn by turn, and score the last pictures")
    parser.add_argument("--no-ema", action="store_true", help="use the trained weights instead of their average")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    parser.add_argument(
        "--precision",
        default="32-true",
        choices=PRECISIONS,
        help="of the editor, not of the metrics: bf16-mixed is faster on GPUs and some processors, and auto chooses it "
        "there (default: %(default)s)",
    )
    _add_pictures(parser)
    return parser


def _add_systems(parser: argparse.ArgumentParser) -> None:
    """What is scored: one system or several."""
    parser.add_argument(
        "--checkpoint",
        nargs="+",
        metavar="PATH",
        help="run directories, checkpoint or .safetensors files of some, or exported folders",
    )
    parser.add_argument(
        "--config",
        nargs="+",
        metavar="YAML",
        help="score without a run: its section `editor`, or `model` before training",
    )
    parser.add_argument(
        "--images",
        nargs="+",
        metavar="DIR",
        help="ready-made pictures KEY.png, .jpg or .webp, or KEY.SEED.png; texts.json beside",
    )


def _add_samples(parser: argparse.ArgumentParser) -> None:
    """On which samples."""
    parser.add_argument(
        "--data",
        nargs="+",
        metavar="YAML",
        help="with a `data` section, such as configs/data/plain.yaml; of a protocol PART=YAML for data elsewhere",
    )
    parser.add_argument(
        "--protocol",
        metavar="NAME",
        help="how a paper measures, its data, metrics and models: a file of configs/evaluation/protocols, or a YAML",
    )
    parser.add_argument("--parts", nargs="+", default=[], metavar="PART", help="of the protocol (default: all)")
    parser.add_argument("--split", help="train, val, test or a held-out split (default: the protocol's, or test)")
    parser.add_argument(
        "--seeds", type=positive, help="number of sampling seeds, 0 .. N-1 (default: the protocol's, or 1)"
    )
    parser.add_argument("--limit", type=positive, help="score only the first N samples")


def _add_pictures(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-pictures",
        type=natural,
        default=1000,
        metavar="N",
        help="write the edited pictures of the first N samples to OUT/pictures, which --images reads; 0 for none "
        "(default: 1000)",
    )


def build_compare_parser(prog: str = "evaluate.py compare") -> argparse.ArgumentParser:
    """The command line of `evaluate.py compare`."""
    parser = OptionParser(prog=prog, description="Hold evaluations of the same samples against the first one.")
    parser.add_argument("first", metavar="DIR", help="--out folder of an evaluation: what the others are held against")
    parser.add_argument("others", nargs="+", metavar="OTHER_DIR", help="further ones, of the same samples")
    parser.add_argument("--out", required=True, help="folder for report.html, metrics_compare.json and the tables")
    return parser


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    """Which metrics, and what they read beside data and edits."""
    parser.add_argument(
        "--metrics",
        nargs="+",
        help="metrics by name or class path (default: as configs/evaluation says for the data, and the method's own)",
    )
    parser.add_argument(
        "--clip", nargs="+", metavar="NAME [WEIGHTS]", help="open_clip model and weights, or a folder in its layout"
    )
    parser.add_argument("--preprocessing", help="default, crop, compat_ip2p or compat_magicbrush")
    parser.add_argument(
        "--dino", metavar="FOLDER_OR_HUB_ID", help="image transformer behind dino_*: facebook/dino-vits16"
    )
    parser.add_argument("--dino-preprocessing", help="default, crop or compat_magicbrush")
    parser.add_argument(
        "--lpips", nargs="+", metavar="NAME [WEIGHTS]", help="alex, vgg or squeeze, and torchvision's file of weights"
    )
    parser.add_argument(
        "--features",
        nargs="+",
        metavar="NAME [WEIGHTS]",
        help="what fid and kid compare: clip, dino, fid_inception or a model of torchvision, and its file of weights",
    )
    parser.add_argument("--judge", help="class path of the judge behind success and preservation")
