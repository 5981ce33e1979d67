"""Samples with attachments, for streams; as a program, a trainer in miniature that may be killed.

    python -m tests.datamodules.attached FOLDER OUT COUNT [DIES_AT]

reads FOLDER and writes one line of JSON a batch to OUT, going on from OUT.state if that is there.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.schema import AttachmentSettings, Sample
from datamodules.shard_index import ShardIndex
from datamodules.stream import ShardStream
from datamodules.transforms import ImageTransform
from tests.datamodules.make_samples import make_image, make_samples, sine, sound

SETTINGS = AttachmentSettings(attachment_size=8, audio_rate=8_000, audio_seconds=0.5, max_attachments=3)
KINDS = ("WAV", "FLAC", "OGG")


def samples(count: int) -> Iterator[Sample]:
    """Samples with none to three attachments of all formats; every seventh is bad, in several ways."""
    for number, sample in enumerate(make_samples(count)):
        kind, attachments = KINDS[number % 3], []
        tone = sound(sine(0.05 + 0.01 * (number % 5), 22_050, 200 + 20 * number, 1 + number % 2), kind, 22_050)
        if number % 4 > 0:
            attachments = [{"kind": "image", "role": "subject", "data": make_image(100 + number, 12)}]
        if number % 4 > 1:
            attachments.append({"kind": "audio", "role": "style", "data": tone, "format": kind.lower()})
        if number % 4 > 2:
            attachments.append({"kind": "image", "role": "answer", "data": make_image(200 + number)})
        if number % 7 == 6:
            broken = (tone[: len(tone) // 2], sound(sine(0.6), kind), b"no sound")[number % 3]
            attachments = [{"kind": "audio", "data": broken, "format": kind.lower()}]
        named = "".join(f" <{a['kind']}:{k}> thing" for k, a in enumerate(attachments) if a.get("role") != "answer")
        yield {**sample, "instruction": sample["instruction"] + named, "attachments": attachments}  # type: ignore[typeddict-item]


def stream(index: ShardIndex, **settings: Any) -> ShardStream:
    settings = {"transform": ImageTransform(12, 20, crop="random", flip=True), "attachments": SETTINGS} | settings
    return ShardStream(
        index, **{"global_batch_size": 6, "seed": 7, "block_shards": 2, "max_bad_fraction": 1.0} | settings
    )


def digest(batch: Any) -> dict[str, Any]:
    """A batch as plain values, its tensors as checksums."""
    return {
        name: (list(value.shape), hashlib.sha256(value.numpy().tobytes()).hexdigest())
        if isinstance(value, Tensor)
        else value
        for name, value in sorted(batch.items())
    }


def main(folder: str, out: str, count: str, dies_at: str = "-1") -> None:
    made, state, done = stream(ShardIndex.load(folder), num_workers=1), Path(f"{out}.state"), 0
    if state.exists():
        made.load_state_dict(json.loads(state.read_text()))
    with Path(out).open("a") as file:
        while done < int(count):
            for batch in made:
                if done == int(dies_at):
                    os.kill(os.getpid(), signal.SIGKILL)
                file.write(json.dumps(digest(batch)) + "\n")
                file.flush()
                Path(f"{out}.new").write_text(json.dumps(made.state_dict()))
                os.replace(f"{out}.new", state)
                done += 1
                if done == int(count):
                    break
    made.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
