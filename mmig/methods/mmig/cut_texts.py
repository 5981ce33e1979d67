"""Texts of which one of MMIG's readers reads a part only: which, and how it is said."""

from collections.abc import Sequence

from mmig.base.texts import CutText, cut_texts, joined
from mmig.diffusion.text import tokenise
from mmig.editor import EditOutput
from mmig.methods.mmig.model import MMIG


def cut_texts_of(model: MMIG, read: Sequence[str], responses: Sequence[str], are_given: bool) -> list[list[CutText]]:
    """What the text encoder does not read of its texts, and the LLM not of responses that it has not written itself."""
    cut, mllm = model.reader.cut(read, model.objective.denoiser_text), model.mllm
    if mllm is None or not are_given:
        return cut
    lengths = map(len, tokenise(mllm.tokenizer, responses))
    return joined(cut, cut_texts("response", "language model", lengths, mllm.config.max_response_tokens))


def lost_text(model: MMIG, output: EditOutput) -> list[str]:
    """One line for each way in which responses do not reach the denoiser whole."""
    max_chunks, has_chunks = model.objective.max_text_chunks, not model.kind.reads_pooled
    cut, lines = [one for of_sample in output.extras["cut"] for one in of_sample], []
    for reader in dict.fromkeys(one.reader for one in cut):
        longest = max((one for one in cut if one.reader == reader), key=lambda one: one.tokens)
        chunks = -(-longest.tokens * max_chunks // longest.read)
        more = f"; load the pipeline with max_text_chunks={chunks}" if reader == "text encoder" and has_chunks else ""
        lines.append(
            f"the longest {longest.name} has {longest.tokens} tokens, of which the {reader} reads {longest.read}: what "
            f"follows has no effect{more}"
        )
    lengths = [len(ids) for ids in tokenise(model.tokenizer, output.texts)]
    if 0 in lengths:
        lines.append(f"image {lengths.index(0)} has an empty response: its edit follows no text")
    return lines
