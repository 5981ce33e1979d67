"""Command line: `python -m mmig.methods.umm_diffusion.subjects --source SHARDS --out DIR [--detector MODEL] ...`.

Makes the training data of UMM-Diffusion (Ma et al. 2023, section 3.4) of shards with pictures and captions, such as
LAION's: what a detector finds in a picture and its caption says becomes a crop that stands for that word. The rules:

1. the picture can be decoded, and its shorter side has --min-side pixels;
2. boxes count above --threshold;
3. a label of which more than one box is left is dropped: its word is ambiguous;
4. so is a box that takes less than --min-area of the picture,
5. and a label that the caption does not say, or says more than once;
6. what is left is cut out, as the rectangle that it is, with the background in it.

DIR/conversion.json counts samples and boxes by the rule that dropped them. Killed, it goes on where it was; with
--record it asks nothing twice, and that file (JSON lines `{"key": ..., "answer": {"boxes": [[left, top, right,
bottom], ...], "labels": [...], "scores": [...]}}`, in pixels) can be given to --replay, as can what another detector
found. Under torchrun, or with RANK and WORLD_SIZE set, shard i belongs to rank i % WORLD_SIZE.
"""

import argparse
from dataclasses import fields

from datamodules.shards import map_shards
from mmig.base.commands import OptionParser, positive
from mmig.cache.map import AnswerError
from mmig.cache.mapping import add_shard_options, map_in_one_line
from mmig.methods.umm_diffusion.crop_rules import CropRules
from mmig.methods.umm_diffusion.subject_crops import SubjectCrops

BATCH_SIZE = 64
"""Samples read at once."""


def main(arguments: list[str] | None = None) -> None:
    """Make subject shards; what a user can mend ends in one line."""
    options = _parser().parse_args(arguments)

    def make() -> tuple[SubjectCrops, int]:
        if options.detector is None and not options.replay:
            raise AnswerError("no detector is named: give --detector MODEL, or --replay FILE with boxes")
        rules = CropRules(**{item.name: getattr(options, item.name) for item in fields(CropRules)})
        own = ("detector", "open_vocabulary", "labels", "synonyms", "batch_size", "dtype", "device")
        mapper = SubjectCrops(rules=rules, **{name: getattr(options, name) for name in own})
        return mapper, max(BATCH_SIZE, options.batch_size)

    map_in_one_line(make, options, map_shards)


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_shard_options(parser)
    detector = parser.add_argument_group("detector")
    detector.add_argument("--detector", metavar="MODEL", help="folder or hub id; left out, boxes are replayed alone")
    detector.add_argument(
        "--open-vocabulary", action="store_true", help="it is asked for labels (OWLv2, Grounding DINO)"
    )
    detector.add_argument(
        "--labels", nargs="+", metavar="LABEL", help="that may be subjects (default: all; open vocabulary: COCO's 80)"
    )
    detector.add_argument(
        "--synonyms",
        metavar="coco|YAML",
        help="words that mean a label too: a table for COCO's names, or lists in a file",
    )
    detector.add_argument("--batch-size", type=positive, default=1, help="pictures shown at once (default: 1)")
    detector.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="precision")
    detector.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default: auto)")
    rules, default = parser.add_argument_group("rules"), CropRules()
    rules.add_argument("--threshold", type=float, help="a box's least score (default: 0.7; open vocabulary: 0.35)")
    for option, about in (
        ("--nms-iou", "overlap from which two boxes of one label are one object; 1: never"),
        ("--min-side", "pixels of a picture's shorter side"),
        ("--min-area", "share of the picture that a box must take"),
        ("--min-inside", "share of a box that must be in the middle square, which training sees; 0: any"),
        ("--max-subjects", "most crops of a sample; the data's max_attachments must allow them"),
    ):
        value = getattr(default, option.removeprefix("--").replace("-", "_"))
        rules.add_argument(option, type=type(value), default=value, help=f"{about} (default: {value})")
    return parser


if __name__ == "__main__":
    main()
