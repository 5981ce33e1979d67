"""Long instructions: an edit said in one of several sentences, the others of which ask for nothing.

So Li et al. 2023 (section 10.3) test InstructAny2Pix, on a piece of a story; no training instruction is like it there.
No sentence here names a colour, shape, size, place or effect, so that the short and the long form mean one edit.
"""

from datamodules.tinyworld.draws import Draws

OPENINGS = (
    "the picture here is a good one, but it is not my last one",
    "a new picture is here, and there is one more thing to do",
    "on a winter evening my house has a new picture to show",
    "with many things to see and music to hear, this is a very nice picture",
    "now look at this, for it is a very good picture of a summer morning",
)
MIDDLES = (
    "many things in it look nice, and each of them has its place",
    "all my music is like it, so very soft and so very clear",
    "it is just as good as my other one, but it is not the same",
    "it will be the first of many, for there is much to see",
    "you need not like it to see that it is a good one",
)
ASKED = (
    "please {edit}",
    "now {edit}, please",
    "so you should {edit}, and just that",
    "there is one thing to do, and it is to {edit}",
)
"""{edit}: the short instruction."""
CLOSINGS = (
    "let all the rest be as it is",
    "leave every other thing in its place",
    "the rest of it is good, so do not change another thing",
    "do no more, for all the rest is as it should be",
)


def in_a_story(draws: Draws, instruction: str) -> str:
    """A text of four sentences that asks for what the instruction asks for, once, and for nothing else."""
    asked = draws.choice(ASKED).format(edit=instruction)
    sentences = (draws.choice(OPENINGS), draws.choice(MIDDLES), asked, draws.choice(CLOSINGS))
    return " ".join(f"{sentence}." for sentence in sentences)
