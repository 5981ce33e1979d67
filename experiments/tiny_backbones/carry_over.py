"""Carry a language model over to another tokenizer, so that it need not learn again what it knows.

`python -m experiments.tiny_backbones.carry_over OLD --tokenizer NEW --out FOLDER`

The blocks stay as they are. An entry of the new vocabulary that the old one has keeps its rows of input and output; any
other begins with the mean of the rows of the old entries that its text is cut into.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from experiments.tiny_backbones.export import write_language_model
from mmig.base.commands import OptionParser, one_line_errors

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

BLANK = "▁"
"""What stands for a blank in entries."""


def carried_rows(rows: Tensor, old: dict[str, int], new: dict[str, int], cut: Callable[[str], list[int]]) -> Tensor:
    """A row for each entry of `new`, [entries,D].

    Args:
        rows: of the entries of `old`, by id, [old entries,D].
        cut: ids of the old entries that a text is cut into, one at least.
    """
    sources = {index: [old[entry]] if entry in old else cut(entry) for entry, index in new.items()}
    return torch.stack([rows[sources[index]].mean(dim=0) for index in range(len(new))])


def carry_over(folder: Path, tokenizer: Path) -> "LlamaForCausalLM":
    """The model of a folder with the vocabulary of another, in float32."""
    from transformers import LlamaForCausalLM, LlamaTokenizer

    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    old, new = (LlamaTokenizer.from_pretrained(place) for place in (folder, tokenizer))
    backend = old.backend_tokenizer.model
    old_ids, new_ids = old.get_vocab(), new.get_vocab()

    def cut(entry: str) -> list[int]:
        return [token.id for token in backend.tokenize(entry)] or [old_ids[BLANK]]

    carried = [
        carried_rows(part.weight.data, old_ids, new_ids, cut)
        for part in (model.get_input_embeddings(), model.get_output_embeddings())
    ]
    model.resize_token_embeddings(len(new_ids), mean_resizing=False)
    for part, rows in zip((model.get_input_embeddings(), model.get_output_embeddings()), carried, strict=True):
        part.weight = nn.Parameter(rows)
    for name in ("bos", "eos", "pad"):
        setattr(model.config, f"{name}_token_id", getattr(new, f"{name}_token_id"))
    return model


def main() -> None:
    """Write the carried model with its new tokenizer."""
    parser = OptionParser(description=__doc__)
    parser.add_argument("old", type=Path, help="folder of the language model")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder of the new tokenizer")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    arguments = parser.parse_args()
    with one_line_errors():
        write_language_model(carry_over(arguments.old, arguments.tokenizer), arguments.tokenizer, arguments.out)
    print(arguments.out)  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
