"""Which posts of Danbooru become samples, by their metadata."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from datamodules.convert.filters import Verdict
from datamodules.convert.posts import Post

_KINDS = ("jpg", "jpeg", "png")


@dataclass(frozen=True)
class PostFilters:
    """Bounds of each post; deleted and banned ones, and what is no JPEG or PNG, are always refused.

    Attributes:
        ratings: allowed ones; None for safe ones alone.
        min_score, min_side: least score, and least short side of the original in pixels; a post that says nothing
            passes. without: no post with one of these tags.
    """

    ratings: tuple[str, ...] | None = None
    min_score: int | None = None
    min_side: int = 256
    without: tuple[str, ...] = ("comic", "text-only_page")

    def refused(self, post: Post, safe: str) -> Verdict | None:
        """The first filter that refuses a post, None if all let it pass; `safe` is how these metadata call it."""
        return next(self._verdicts(post, self.ratings or (safe,)), None)

    def _verdicts(self, post: Post, ratings: Collection[str]) -> Iterator[Verdict]:
        if post.rating not in ratings:
            yield Verdict("filter: rating", f"rated {post.rating!r}, expected {' or '.join(ratings)}")
        for state in post.states:
            yield Verdict(f"filter: {state}", f"the post is {state}")
        if post.kind not in _KINDS:
            yield Verdict("filter: kind", f"a file of kind {post.kind!r}, expected {' or '.join(_KINDS)}")
        for tag in self.without:
            if any(tag in names for names in post.tags):
                yield Verdict("filter: tag", f"it has the tag {tag}")
        if self.min_score is not None and post.score is not None and post.score < self.min_score:
            yield Verdict("filter: score", f"score is {post.score}, expected at least {self.min_score}")
        if post.short_side is not None and post.short_side < self.min_side:
            yield Verdict("filter: side", f"short side is {post.short_side}, expected at least {self.min_side}")


def safe_rating(ratings: Collection[str]) -> str:
    """How metadata with these ratings call a safe post: `s` until 2021; where `g` (general) is, `s` is `sensitive`."""
    return "g" if "g" in ratings else "s"
