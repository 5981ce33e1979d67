"""What this method refuses."""


class StyleClipError(ValueError):
    """A picture, a text or a part that cannot be used; one line says which, what was expected, and what to do."""
