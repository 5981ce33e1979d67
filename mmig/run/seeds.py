"""One seed for a whole run: what has a seed of its own follows `seed_everything` where it is given none."""

from typing import Any

FOLLOWS = {"model": "noise, timesteps and drops", "data": "the order of the data and augmentation"}
"""Sections with `init_args.seed`, and what it decides."""


def spread_seed(options: Any, given: Any) -> list[str]:
    """Set the seeds of model and data that nobody gave to `seed_everything`, so that one number makes another run.

    Args:
        options: parsed settings, with the defaults of what was not given; changed in place.
        given: the same without defaults.

    Returns:
        Settings whose seed is given and differs from `seed_everything`; they keep it.
    """
    seed, kept = options.seed_everything, []
    if isinstance(seed, bool):  # false: nothing is seeded by it
        return []
    for section in FOLLOWS:
        arguments = (options.get(section) or {}).get("init_args")
        if arguments is None or "seed" not in arguments:
            continue
        named = ((given.get(section) or {}).get("init_args") or {}).get("seed")
        if named is None:
            arguments["seed"] = seed
        elif named != seed:
            kept.append(f"{section}.init_args.seed {named} ({FOLLOWS[section]})")
    return kept
