"""Features of a batch as they are written to the cache: those that `FrozenFeatures` reads back under the same names."""

from collections.abc import Sequence

import torch
from torch import Tensor

from datamodules.schema import Batch
from mmig.cache.frozen import FrozenFeatures


@torch.no_grad()
def compute(
    features: FrozenFeatures,
    batch: Batch,
    names: Sequence[str],
    dtype: torch.dtype | None = None,
) -> list[dict[str, Tensor]]:
    """Features of each sample, on the CPU.

    Args:
        features: of the model that will read them.
        batch: without features of its own.
        names: latents.FIELD (posterior moments [2c,h,w]), text.FIELD ([n,D]), llm.states ([n,D], n tokens of the
            response), llm.visual_tokens ([K,D]).
        dtype: to store; None keeps the one they are computed in.
    """
    of_samples: list[dict[str, Tensor]] = [{} for _ in batch["key"]]
    for name in names:
        for sample, values in zip(of_samples, _rows(features, batch, name), strict=True):
            sample[name] = values.to("cpu", dtype or values.dtype, copy=True)
    return of_samples


def sees_images(name: str, features: FrozenFeatures) -> bool:
    """Whether a feature changes where the images are flipped."""
    return name.startswith("latents.") or (features.llm_sees and name.startswith("llm."))


def _rows(features: FrozenFeatures, batch: Batch, name: str) -> Sequence[Tensor]:
    kind, _, field = name.partition(".")
    if kind == "latents":
        return list(features.posterior(batch, field).parameters)
    if kind == "text":
        return _cut(*features.text(batch, [field] * len(batch["key"])))
    if field == "states":
        return _cut(*features.states(batch, batch["has_source"] if features.llm_sees else None))
    return list(features.visual_tokens(batch))


def _cut(values: Tensor, mask: Tensor | None) -> list[Tensor]:
    """The rows of each sample that count."""
    if mask is None:
        return list(values)
    return [rows[: int(count)] for rows, count in zip(values, mask.sum(dim=1), strict=True)]
