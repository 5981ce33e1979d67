"""Random numbers keyed by the sample, not by the process.

Every number that decides a training trajectory (noise, timesteps, conditioning drops) is a function of
(seed, position of the sample in the stream, name of the draw). It therefore does not depend on the number of
ranks, workers or micro-batches, and a resumed run draws what the interrupted one would have drawn.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def derive_seed(*keys: int | str) -> int:
    """Hash any integers and strings into a seed in [0, 2**63), the same on every machine."""
    text = "\x1f".join(str(key) for key in keys)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(*keys: int | str) -> torch.Generator:
    """CPU generator seeded by `derive_seed(*keys)`."""
    return torch.Generator().manual_seed(derive_seed(*keys))


def sample_generators(seed: int, keys: Sequence[str]) -> list[torch.Generator]:
    """One CPU generator a sample for an edit, by (seed, key): neither batching nor the rank changes a result."""
    return [generator(seed, "predict", key) for key in keys]


class Draws:
    """The random draws of a batch of samples.

    A draw of the same name is made once, however often it is asked for; use distinct names for independent draws.

    Args:
        seed: seed of the run.
        positions: place of each sample in the stream, int64 [B] (tensor or sequence).
    """

    def __init__(self, seed: int, positions: Tensor | Sequence[int]) -> None:
        self.seed = seed
        self.positions = [int(position) for position in positions]
        self._drawn: dict[tuple[str, ...], Tensor] = {}

    def normal(self, name: str, shape: Sequence[int]) -> Tensor:
        """Standard normal, float32 [B,*shape] on the CPU."""
        return self._once(("normal", name, str(tuple(shape))), lambda source: torch.randn(*shape, generator=source))

    def uniform(self, name: str) -> Tensor:
        """Uniform in [0, 1), float32 [B]."""
        return self._once(("uniform", name), lambda source: torch.rand((), generator=source))

    def integers(self, name: str, high: int) -> Tensor:
        """Uniform in {0, ..., high - 1}, int64 [B]."""
        return self._once(("integers", name, str(high)), lambda source: torch.randint(high, (), generator=source))

    def bernoulli(self, name: str, probability: float) -> Tensor:
        """True with the given probability, bool [B]."""
        return self.uniform(name) < probability

    def _once(self, key: tuple[str, ...], draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        """The draw of a kind, a name and what more it depends on."""
        if key not in self._drawn:
            sources = (generator(self.seed, position, key[1]) for position in self.positions)
            self._drawn[key] = torch.stack([draw(source) for source in sources])
        return self._drawn[key]
