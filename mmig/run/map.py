"""Command line: `python -m mmig.run.map --config FILE --source SHARDS --out DIR [--replay FILE ...] [--record FILE]`.

Makes shards of shards with a mapper (`mmig.cache.map`): texts that a language model writes, crops of what a detector
finds. FILE holds `mapper: {class_path: ..., init_args: {...}}` and, if any, `batch_size`, the samples given at once.

Killed, it goes on where it was. Under torchrun, or with RANK and WORLD_SIZE set, shard i belongs to rank
i % WORLD_SIZE; ranks may start and end at any time, and the one that finishes last joins the result. DIR is the same
to the byte for any number of ranks, and whether answers were given here or replayed.
"""

import argparse
from pathlib import Path

from datamodules.shards import map_shards
from mmig.base.commands import OptionParser
from mmig.base.settings import RefusedSettingsError, call
from mmig.cache.map import AskingMapper, Mapper
from mmig.cache.mapping import add_shard_options, map_in_one_line
from mmig.evaluation.settings import read_yaml

SETTINGS = ("mapper", "batch_size")


class MapError(ValueError):
    """A configuration that names no mapper, or options that do not fit it."""


def read_config(path: Path) -> tuple[Mapper | AskingMapper, int]:
    """The mapper of a configuration, and how many samples it is given at once.

    Raises:
        MapError: there is none, or what is named is no mapper.
    """
    config = read_yaml(path)
    if unknown := sorted(config.keys() - set(SETTINGS)):
        raise MapError(f"{path}: expected {' and '.join(SETTINGS)}, found {unknown[0]!r} beside them")
    section, batch_size = config.get("mapper"), config.get("batch_size", 16)
    if not isinstance(section, dict) or "class_path" not in section:
        raise MapError(f"{path}: expected a section `mapper` with class_path and init_args, found {section!r}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise MapError(f"{path}: batch_size: expected a whole number of at least 1, found {batch_size!r}")
    try:
        mapper = call(section)
    except RefusedSettingsError as error:
        raise MapError(f"{path}: mapper: {error}") from error
    if not isinstance(mapper, Mapper | AskingMapper):
        raise MapError(
            f"{path}: mapper: {section['class_path']} is no mapper: expected facts() and either __call__(samples), or "
            "answer(samples) and apply(sample, answer)"
        )
    return mapper, batch_size


def main(arguments: list[str] | None = None) -> None:
    """Map shards to shards; what a user can mend ends in one line."""
    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML with the mapper")
    add_shard_options(parser)
    options = parser.parse_args(arguments)
    map_in_one_line(lambda: read_config(options.config), options, map_shards)


if __name__ == "__main__":
    main()
