"""What is asked about an edit, and what is kept of the answer: functions of texts. No model is used here.

Both as in the data preparation that MGIE (Fu et al. 2024) was released with (apple/ml-mgie, process_data).
"""

import re

from datamodules.schema import without_placeholders

SLOT = "{instruction}"
QUESTION = "what will this image be like if '{instruction}'  (in a short paragraph)\n"
"""The two blanks are the original's. The suffix asks for targets only: a trained MGIE is asked without it."""
HEADER = "ASSISTANT:"
"""What stands before an answer in LLaVA's conversations."""
END = "</s>"
FIRST_IMAGE_TOKEN = "[IMG0]"
NUM_SENTENCES = 2
_ALTERNATIVE = re.compile("alternative", re.IGNORECASE)
_BETWEEN_SENTENCES = re.compile(r"(?<=[.!?])\s+")
_UNENDED = " ,;:!?-"


def question_about(instruction: str, template: str = QUESTION) -> str:
    """The question about an edit; `<image:k>` and `<audio:k>` in the instruction are left out.

    Args:
        instruction: any text.
        template: with `{instruction}` once or more; other braces are text.

    Raises:
        ValueError: the template has no place for the instruction.
    """
    if SLOT not in template:
        raise ValueError(f"question: expected {SLOT} in it, where the instruction goes, found {template!r}")
    return template.replace(SLOT, without_placeholders(instruction).strip())


def clean(answer: str, header: str = HEADER) -> str:
    """An answer cut to what may be learnt of it; "" where nothing is left. In this order:

    1. of a text that holds the header, what follows the first one;
    2. what stands before `</s>`;
    3. what stands before "alternative", in any case (a model that goes on writes "Alternatively, ...");
    4. what stands before `[IMG0]`;
    5. the first two sentences; one ends at `.`, `!` or `?` before white space, so that 2.5 is no end;
    6. a period at the end; another mark there gives way to it.

    White space becomes single blanks.

    Args:
        answer: as the model wrote it.
        header: of the assistant's turn; "" for none.
    """
    if header and header in answer:
        answer = answer.partition(header)[2]
    answer = answer.partition(END)[0]
    answer = _ALTERNATIVE.split(answer, maxsplit=1)[0]
    answer = answer.partition(FIRST_IMAGE_TOKEN)[0]
    sentences = _BETWEEN_SENTENCES.split(answer.strip())[:NUM_SENTENCES]
    kept = " ".join(" ".join(sentences).split())
    if not any(character.isalnum() for character in kept):
        return ""
    return kept if kept.endswith(".") else kept.rstrip(_UNENDED) + "."
