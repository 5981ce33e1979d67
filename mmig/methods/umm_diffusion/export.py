"""UMM-Diffusion as a folder: Stable Diffusion's layout, the image encoder and the MLP beside it, and what opens it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch

from mmig.backbones.clip_image import load_clip_image
from mmig.backbones.diffusion import (
    check_compatible,
    load_scheduler,
    load_text_encoder,
    load_tokenizer,
    load_unet,
    load_vae,
)
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.parts import CLIP_VISION, PIPELINE_PARTS, BackboneError, Part
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.saving import forget_origins, save_parts, save_pipeline
from mmig.methods.umm_diffusion.editor import SubjectEditor, SubjectSampling
from mmig.methods.umm_diffusion.encoder import PseudoWord
from mmig.methods.umm_diffusion.words import MultiToken

PSEUDO_WORD = Part("pseudo_word", "pseudo_word", kind_key="_class_name", kinds=("PseudoWord",))
OPENED_BY = "mmig.methods.umm_diffusion.export.open_editor"
ABOUT = """Subject-driven text-to-image generation with UMM-Diffusion (Ma et al. 2023): a subject's picture takes the \
place of a word in the text encoder, without any tuning on it.

## Use

```python
from PIL import Image
from mmig.methods.umm_diffusion.pipeline import UMMDiffusionPipeline

pipe = UMMDiffusionPipeline.from_pretrained("{name}")
pipe("a dog in the snow", subjects={"dog": Image.open("dog.png")})[0].save("out.png")
```

`StableDiffusionPipeline.from_pretrained("{name}")` of diffusers draws by the text alone."""
"""What a folder's card says; `name` is the folder's."""


def save_umm_diffusion(editor: SubjectEditor, folder: Path) -> str:
    """Write an editor's parts and editor.yaml; see `TrainingModule.export`."""
    parts: dict[str, Any] = {part.name: getattr(editor, part.name) for part in PIPELINE_PARTS}
    save_pipeline(folder, "StableDiffusionPipeline", parts)
    save_parts(folder, {"pseudo_word": editor.pseudo_word, "image_encoder": editor.image_encoder})
    forget_origins(folder)
    embedding = None if editor.image_encoder.projects else "pooled"
    settings = {"multi_token": editor.multi_token, "sampling": asdict(editor.sampling)}
    write_editor(folder, OPENED_BY, image_embedding=embedding, **settings)
    return ABOUT


def open_editor(
    path: str,
    image_embedding: Literal["projected", "pooled"] = "projected",
    multi_token: MultiToken = "last",
    sampling: SubjectSampling | None = None,
) -> SubjectEditor:
    """The editor of a folder that `save_umm_diffusion` wrote, frozen.

    Args:
        path: the folder, or the hub id of one.
        image_embedding, multi_token: as it was trained, see `UMMDiffusionModule`.
        sampling: how to draw.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """
    vae = load_vae(path)
    unet = load_unet(path, in_channels=vae.config.latent_channels).to(memory_format=torch.channels_last)
    text_encoder, tokenizer = load_text_encoder(path), load_tokenizer(path)
    check_compatible(unet, text_encoder, vae, tokenizer)
    image_encoder = load_clip_image(path, projected=image_embedding == "projected")
    pseudo_word = load_strictly(PseudoWord, folder := locate(path, PSEUDO_WORD), torch.float32)
    found = pseudo_word.config.image_dim, pseudo_word.config.word_dim
    if found != (expected := (image_encoder.width, text_encoder.config.hidden_size)):
        raise BackboneError(
            f"{folder}: expected an MLP from {expected[0]} to {expected[1]}, the widths of image and text encoder, "
            f"found one from {found[0]} to {found[1]}; export the run again"
        )
    prepare(pseudo_word, frozen=True, gradient_checkpointing=False)
    parts = (vae, unet, text_encoder, tokenizer, load_scheduler(path), image_encoder, pseudo_word)
    return SubjectEditor(*parts, multi_token, sampling)


open_editor.backbone_settings = {  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
    "path": {part.name: part for part in (*PIPELINE_PARTS, CLIP_VISION, PSEUDO_WORD)}
}
