"""Features that frozen models computed once, as one member of a sample: safetensors in the tar, tensors in the batch.

`KEY.features.safetensors` holds tensors by name and, in its metadata, the facts that they depend on (fingerprints of
the models, how the images were cut). Which tensors there are and who checks the facts of models is `mmig.cache`'s
affair; here only those of the images are known. A tensor `NAME.mirrored` stands for NAME where the images are flipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

MEMBER = "features.safetensors"
MIRRORED = ".mirrored"
GEOMETRY, FLIPS = "images", "flips"
"""Facts about the images: how they were cut, and whether there are features of the flipped ones ("both" or "none")."""
ATTACHMENTS = "attachments"
"""Fact about the attachments of a sample that has any: what their tensors were made like."""
FAULT, DETAIL = "fault", "detail"
"""Facts of a member without tensors: why the sample could not be read when the features were computed."""
PREFIX = "features."
"""Of the names of features in a batch."""


class FeatureError(ValueError):
    """Features that cannot be read, or that are not those of these images; one line."""


@dataclass(frozen=True)
class Features:
    """Features of one sample.

    Attributes:
        tensors: by name; the first axis may differ from sample to sample.
        facts: what they depend on, by name.
    """

    tensors: dict[str, Tensor]
    facts: dict[str, str]

    def seen(self, geometry: str, may_flip: bool, flipped: bool) -> Features:
        """Those of the images as a transform cuts them.

        Args:
            geometry: how it cuts. may_flip: whether it flips any sample. flipped: whether it flips this one.

        Raises:
            FeatureError: the features were computed on images cut in another way, or never on flipped ones.
        """
        for name, wanted in ((GEOMETRY, geometry), (FLIPS, "both" if may_flip else self.facts.get(FLIPS))):
            if (found := self.facts.get(name)) != wanted:
                raise FeatureError(
                    f"cached features are of other {name}: {found!r}, the transform of this configuration makes "
                    f"{wanted!r}; give the settings of the cache, or write it anew with `python -m mmig.run.cache`"
                )
        twins = {name for name in self.tensors if name.endswith(MIRRORED)}
        chosen = {
            name: self.tensors[name + MIRRORED if flipped and name + MIRRORED in twins else name]
            for name in self.tensors.keys() - twins
        }
        return replace(self, tensors=chosen)


def pack(features: Features) -> bytes:
    """The bytes of the member, the same for the same features."""
    from safetensors.torch import save

    content = save({name: value.contiguous() for name, value in features.tensors.items()}, metadata=features.facts)
    end = 8 + int.from_bytes(content[:8], "little")
    # safetensors writes the entries of its header in another order in each process
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[end:]


def unpack(data: bytes | memoryview) -> Features:
    """Read the member back.

    Raises:
        FeatureError: no safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = bytes(data)
    try:
        tensors = load(content)
        facts = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:  # KeyError: a dtype that torch does not have
        raise FeatureError(f"{MEMBER}: {error}") from error
    return Features(tensors, facts)


def stack(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Features of samples as fields of a batch; nothing if no sample has any.

    Returns:
        `features.NAME` [B,n,...], zeros behind the end of what is shorter; `features.NAME.rows` int64 [B], how many
        rows each has (0: the sample has no features); `feature_facts`, the facts of each sample (None: no features).

    Raises:
        FeatureError: some samples have other features than others, or some none; samples without any field, which
            stand for unreadable ones, may lack them.
    """
    features: list[Features | None] = [sample.get("features") for sample in samples]
    first = next((found for found in features if found is not None), None)
    if first is None:
        return {}
    for sample, found in zip(samples, features, strict=True):
        names = None if found is None else found.tensors.keys()
        if names != first.tensors.keys() and len(sample) > 1:
            raise FeatureError(
                f"sample {sample['key']!r}: expected the cached features {', '.join(sorted(first.tensors))} as in its "
                f"batch, found {', '.join(sorted(names)) if names else 'none'}; cache all the data in one way"
            )
    batch: dict[str, Any] = {"feature_facts": [None if found is None else found.facts for found in features]}
    for name, example in first.tensors.items():
        missing = example.new_zeros(0, *example.shape[1:])
        rows = [missing if found is None else found.tensors[name] for found in features]
        batch[PREFIX + name] = _padded(rows, name)
        batch[f"{PREFIX}{name}.rows"] = torch.tensor([len(row) for row in rows])
    return batch


def _padded(rows: list[Tensor], name: str) -> Tensor:
    try:
        return torch.stack(rows) if len({len(row) for row in rows}) == 1 else pad_sequence(rows, batch_first=True)
    except RuntimeError as error:
        shapes = sorted({tuple(row.shape) for row in rows})
        raise FeatureError(
            f"cached feature {name!r}: shapes {shapes} in one batch do not fit; cache it anew"
        ) from error
