"""What cached features depend on, as facts that can be compared: fingerprints of backbones, templates, sizes."""

from collections.abc import Mapping, Sequence


class StaleFeaturesError(ValueError):
    """Cached features that other models made, or that lack something; one line says what."""


def check(
    name: str, depends: Sequence[str], found: Sequence[Mapping[str, str] | None], expected: Mapping[str, str]
) -> None:
    """Compare the facts of a batch's samples with those of the models in training.

    Args:
        name: of the feature that is to be read.
        depends: facts that count for it.
        found: facts of each sample; None for samples that could not be read.
        expected: of the models.

    Raises:
        StaleFeaturesError: they differ.
    """
    for facts in found:
        for fact in depends:
            if facts is not None and facts.get(fact) != expected.get(fact):
                raise StaleFeaturesError(
                    f"cached feature {name!r} is stale: computed with {fact} {_short(facts.get(fact))}, this run has "
                    f"{_short(expected.get(fact))}; write the cache anew with `python -m mmig.run.cache`, or train "
                    "without data.init_args.features"
                )


def _short(fact: str | None) -> str:
    if fact is None:
        return "none"
    return fact[:12] if len(fact) == 64 and set(fact) <= set("0123456789abcdef") else repr(fact)
