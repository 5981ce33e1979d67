"""What only scoring may see, read from the shards themselves: no batch holds it, and no method is ever shown it."""

from __future__ import annotations

from collections.abc import Iterator

from datamodules.decode import decode
from datamodules.faults import BadSample
from datamodules.schema import Attachment, answers
from datamodules.shard_index import ShardIndex
from datamodules.shard_reader import ShardReader


def read_answers(index: ShardIndex) -> Iterator[tuple[str, dict[int, Attachment]]]:
    """Key and answers of each sample that has any, in the order of the index.

    Answers are by their numbers; pictures PIL RGB, sounds encoded. Samples that cannot be read are left out; to the
    stream they are bad, unless the answer itself is what is damaged.
    """
    reader = ShardReader(index)
    for shard, row in enumerate(index.shards):
        for number in range(row.count):
            try:
                sample = decode(reader.key(shard, number), reader.read(shard, number))
            except BadSample:
                continue
            if found := answers(sample):
                yield sample["key"], found
