"""ImageBind from a folder in this repository's layout: config.json, weights, and CLIP's tokenizer beside them.

`python -m mmig.backbones convert-imagebind` makes such a folder of the published file; see `original_imagebind`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmig.backbones.diffusion import load_tokenizer
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import IMAGEBIND, IMAGEBIND_TOKENIZER

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

    from mmig.backbones.imagebind_model import ImageBindModel


def load_imagebind(path: Source, *, dtype: torch.dtype | str = torch.float32) -> "ImageBindModel":
    """The encoder of pictures, texts and sounds, frozen.

    Args:
        path: hub id or folder. dtype: of the weights; vectors are float32 all the same.

    Raises:
        BackboneError: a missing or broken file, or another model in that folder.
    """
    from mmig.backbones.imagebind_model import ImageBindModel

    model = load_strictly(ImageBindModel, locate(path, IMAGEBIND), dtype)
    return prepare(model, frozen=True, gradient_checkpointing=False)


def load_imagebind_tokenizer(path: Source) -> "CLIPTokenizer":
    """CLIP's tokenizer, as the folder of the encoder holds it; errors as `load_imagebind`."""
    return load_tokenizer(path if isinstance(path, Origin) else Origin(str(path), IMAGEBIND_TOKENIZER))


def text_ids(tokenizer: "CLIPTokenizer", texts: Sequence[str]) -> Tensor:
    """Ids int64 [N,L] for `ImageBindModel.embed_texts`, L that of the longest text.

    Longer texts than the encoder reads lose what is before their end-of-text token, which stays; ImageBind's own
    tokenizer loses that token too, and reads the vector of such a text at its largest id.
    """
    return tokenizer(list(texts), padding="longest", truncation=True, return_tensors="pt").input_ids
