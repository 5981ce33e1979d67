"""The error of a condition that does not fit its denoiser, which several modules of this room raise."""


class ConditioningError(ValueError):
    """A condition that a denoiser has no place for."""
