"""The converters by name and the options that each adds to the command line; importing this costs nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.convert.source import Source

Parser = argparse.ArgumentParser
_LAION_BOUNDS = {
    "min-width": (int, "least width in pixels, before img2dataset resized"),
    "min-height": (int, "least height in pixels, before img2dataset resized"),
    "min-similarity": (float, "least CLIP similarity of picture and text"),
    "min-aesthetic": (float, "least predicted aesthetic score"),
    "max-punsafe": (float, "highest probability of being unsafe"),
    "max-pwatermark": (float, "highest probability of a watermark"),
}


@dataclass(frozen=True)
class Converter:
    """One dataset: what it is, which options it adds, and how the parsed options become a source."""

    help: str
    add_options: Callable[[Parser], None]
    build: Callable[[argparse.Namespace], Source]


def _no_options(parser: Parser) -> None:
    del parser


def _table_options(parser: Parser) -> None:
    parser.add_argument("--config", help="which of the dataset's configurations, where it has several")


def _ipr2pr_options(parser: Parser) -> None:
    _table_options(parser)
    parser.add_argument(
        "--seeds", choices=("all", "first"), default="all", help="a sample of all seeds of a prompt, or of its first"
    )


def _ipr2pr(options: argparse.Namespace) -> Source:
    from datamodules.convert.ipr2pr import ipr2pr

    return ipr2pr(options.source, options.seeds, options.config)


def _laion_options(parser: Parser) -> None:
    for name, (kind, text) in _LAION_BOUNDS.items():
        parser.add_argument(f"--{name}", type=kind, help=text)
    parser.add_argument("--nsfw", nargs="+", metavar="TAG", help="allowed tags, such as UNLIKELY UNSURE")
    parser.add_argument(
        "--missing",
        choices=("keep", "drop"),
        default="keep",
        help="samples without the value that a filter asks for (default %(default)s)",
    )


def _laion(options: argparse.Namespace) -> Source:
    from datamodules.convert.filters import Filters
    from datamodules.convert.laion import Laion

    bounds = {field.name: getattr(options, field.name) for field in fields(Filters)}
    return Laion(
        options.source, Filters(**{**bounds, "nsfw": tuple(options.nsfw) if options.nsfw else None}), options.missing
    )


def _magicbrush(options: argparse.Namespace) -> Source:
    from datamodules.convert.magicbrush import magicbrush

    return magicbrush(options.source, options.config)


def _magicbrush_sessions(options: argparse.Namespace) -> Source:
    from datamodules.convert.magicbrush_sessions import magicbrush_sessions

    return magicbrush_sessions(options.source, options.config)


def _shapes_options(parser: Parser) -> None:
    parser.add_argument(
        "--shapes",
        choices=("resize", "drop"),
        default="resize",
        help="pairs of different shapes: resize the target to the source's size, or drop them (default %(default)s)",
    )


def _evr(options: argparse.Namespace) -> Source:
    from datamodules.convert.evr import EVR

    return EVR(options.source, options.shapes)


def _gier(options: argparse.Namespace) -> Source:
    from datamodules.convert.gier import GIER

    return GIER(options.source, options.shapes)


def _ma5k(options: argparse.Namespace) -> Source:
    from datamodules.convert.ma5k import MA5k

    return MA5k(options.source, options.shapes)


def _emu_edit_options(parser: Parser) -> None:
    _table_options(parser)
    parser.add_argument(
        "--swapped",
        choices=("auto", "yes", "no"),
        default="auto",
        help="whether the splits' names are swapped, as in the set with the generations (default %(default)s)",
    )


def _emu_edit(options: argparse.Namespace) -> Source:
    from datamodules.convert.emu_edit import EmuEdit

    return EmuEdit(options.source, options.config, options.swapped)


def _hf_options(parser: Parser) -> None:
    _table_options(parser)
    parser.add_argument(
        "--map", nargs="+", required=True, metavar="FIELD=COLUMN", help="such as source=original_image instruction=edit"
    )
    parser.add_argument("--keep", nargs="+", default=[], metavar="COLUMN", help="columns that become metadata")


def _hf(options: argparse.Namespace) -> Source:
    from datamodules.convert.source import ConversionError
    from datamodules.convert.table_source import HuggingFace

    pairs = [text.partition("=") for text in options.map]
    if wrong := next((text for text in options.map if not all(text.partition("="))), None):
        raise ConversionError(f"--map: expected FIELD=COLUMN, found {wrong!r}")
    columns: dict[str, Any] = {name: column for name, _, column in pairs}
    if len(columns) < len(pairs):
        raise ConversionError(f"--map: expected each field once, found {' '.join(options.map)}")
    return HuggingFace(options.source, options.config, columns, options.keep)


def _danbooru_options(parser: Parser) -> None:
    parser.add_argument("--images", type=int, default=300_000, help="pictures at most (default %(default)s)")
    parser.add_argument(
        "--size", type=int, default=256, help="reduce to this short side in pixels; 0: leave all (default %(default)s)"
    )
    parser.add_argument("--val", type=float, default=0.01, help="share for validation (default %(default)s)")
    parser.add_argument("--artists", action="store_true", help="name artists in captions")
    parser.add_argument("--pictures", default="", metavar="FOLDER", help="where they are, if not in 512px or original")
    parser.add_argument("--ratings", nargs="+", metavar="RATING", help="allowed ones, such as s q (default: safe ones)")
    parser.add_argument("--min-score", type=int, help="least score of a post")
    parser.add_argument(
        "--min-side", type=int, default=256, help="least short side of the original in pixels (default %(default)s)"
    )
    parser.add_argument(
        "--without",
        nargs="*",
        metavar="TAG",
        default=("comic", "text-only_page"),
        help="no pictures with one of these (default: comic text-only_page)",
    )


def _danbooru(options: argparse.Namespace) -> Source:
    from datamodules.convert.danbooru import Danbooru
    from datamodules.convert.post_filters import PostFilters

    ratings = tuple(options.ratings) if options.ratings else None
    filters = PostFilters(ratings, options.min_score, options.min_side, tuple(options.without))
    return Danbooru(
        options.source, filters, options.images, options.size, options.val, options.artists, options.pictures
    )


def _audiovisual_options(parser: Parser) -> None:
    parser.add_argument(
        "--layout",
        choices=("vggsound", "audioset", "audiocaps", "soundnet"),
        default="vggsound",
        help="of the table (default %(default)s)",
    )
    parser.add_argument("--table", default="", help="CSV as published; soundnet has none")
    parser.add_argument("--labels", default="", help="AudioSet's class_labels_indices.csv")
    parser.add_argument("--split", default="train", help="of a table that names none (default %(default)s)")
    parser.add_argument("--audio", default="audio", help="folder of the sounds (default %(default)s)")
    parser.add_argument("--frames", default="frames", help="folder of the middle frames (default %(default)s)")


def _audiovisual(options: argparse.Namespace) -> Source:
    from datamodules.convert.audiovisual import AudioVisual

    names = ("source", "layout", "table", "labels", "split", "audio", "frames")
    return AudioVisual(**{name: getattr(options, name) for name in names})


def _folder_options(parser: Parser) -> None:
    _shapes_options(parser)
    parser.add_argument("--table", required=True, help="CSV or JSON: source, target, instruction, ...")
    parser.add_argument(
        "--val", type=float, default=0.1, help="share of the source pictures for validation (default %(default)s)"
    )


def _folder(options: argparse.Namespace) -> Source:
    from datamodules.convert.folder import Folder

    return Folder(options.source, options.shapes, options.table, options.val)


CONVERTERS: Mapping[str, Converter] = {
    "ipr2pr": Converter("InstructPix2Pix: folders or zips with seeds.json, or parquet", _ipr2pr_options, _ipr2pr),
    "laion": Converter("img2dataset's shards, used as they are: an index, with filters", _laion_options, _laion),
    "magicbrush": Converter("MagicBrush: parquet (train, dev) or the unpacked test set", _table_options, _magicbrush),
    "magicbrush_sessions": Converter(
        "MagicBrush, a sample a session, for evaluate.py --turns", _table_options, _magicbrush_sessions
    ),
    "evr": Converter("Image Editing Request (EVR)", _shapes_options, _evr),
    "gier": Converter("GIER, with masks of local edits", _shapes_options, _gier),
    "ma5k": Converter("MA5k-Req (FiveK with requests)", _shapes_options, _ma5k),
    "emu_edit": Converter("Emu Edit's benchmark, and the set with its generations", _emu_edit_options, _emu_edit),
    "danbooru": Converter("Danbooru2017 and 2021: pictures, captioned by their tags", _danbooru_options, _danbooru),
    "audiovisual": Converter(
        "sounds with their middle frames: VGG-Sound, AudioSet, AudioCaps, SoundNet", _audiovisual_options, _audiovisual
    ),
    "folder": Converter("a folder of pictures of your own, with a table of edits", _folder_options, _folder),
    "hf": Converter("any dataset that `datasets` reads, with a map of its columns", _hf_options, _hf),
}
