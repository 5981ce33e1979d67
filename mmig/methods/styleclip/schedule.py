"""The learning rate by which codes are optimised (Karras et al. 2020, appendix D)."""

import math


def ramp(step: int, num_steps: int, warm_up: float = 0.05, cool_down: float = 0.25) -> float:
    """Learning rate of a step (0 = the first) as a part of the peak, in [0, 1]: up in a line, down as a cosine.

    Args:
        step, num_steps: t is their ratio.
        warm_up, cool_down: parts of all steps.
    """
    t = step / num_steps
    down = 0.5 - 0.5 * math.cos(math.pi * min(1.0, (1 - t) / cool_down))
    return down * min(1.0, t / warm_up)
