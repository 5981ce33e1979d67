"""MGIE as a folder: a sub-folder a part, each in its library's layout, and what opens them together as an editor."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from mmig.backbones.diffusion import check_compatible, load_scheduler, load_unet, load_vae
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.mllm import load_mllm, load_mllm_tokenizer, pixel_statistics
from mmig.backbones.named import Source
from mmig.backbones.parts import MLLM_PARTS, SCHEDULER, UNET, VAE, Part
from mmig.base.files import write_json
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.saving import forget_origins, save_parts
from mmig.methods.mgie.head import EditHead
from mmig.methods.mgie.pipeline import MGIEPipeline, MGIESampling
from mmig.methods.mgie.writer import InstructionWriter, WriterConfig

EDIT_HEAD = Part("edit_head", "edit_head", kind_key="_class_name", kinds=("EditHead",))
OPENED_BY = "mmig.methods.mgie.export.open_editor"
ABOUT = """Instruction-guided image editing with {method} (Fu et al. 2024): a language model {seen} and writes \
what the instruction means, an edit head turns its [IMG] tokens into guidance, and a latent diffusion model edits.

## Use

```python
import torch
from PIL import Image
from mmig.evaluation.pictures import as_batch, to_pil
from mmig.methods.mgie.export import open_editor

editor = open_editor("{name}")
images, sizes = as_batch(Image.open("in.png"), editor.resolution)
edited = editor.edit(images, ["make the ball blue"], torch.Generator().manual_seed(0))
to_pil(edited.images, sizes)[0].save("out.png")
print(edited.texts[0])
```"""
"""What a folder's card says; `name` is the folder's."""


def save_mgie(pipeline: MGIEPipeline, folder: Path) -> str:
    """Write a pipeline's parts and editor.yaml; see `TrainingModule.export`.

    `mllm` is complete for transformers, with the tokenizer that knows the [IMG] tokens, and their rows in its tables.
    """
    writer = pipeline.writer
    writer.tokens.write_into(writer.llm)
    parts: dict[str, Any] = {name: getattr(pipeline, name) for name in ("unet", "vae", "scheduler")}
    save_parts(folder, parts | {"edit_head": pipeline.head, "mllm": writer.llm})
    writer.tokenizer.save_pretrained(folder / "mllm")
    if writer.statistics is not None:
        mean, std = map(list, writer.statistics)
        write_json(folder / "mllm" / "preprocessor_config.json", {"image_mean": mean, "image_std": std})
    forget_origins(folder)
    language = asdict(replace(writer.config, rows="all", gradient_checkpointing=False))
    write_editor(folder, OPENED_BY, sees=writer.sees, language=language, sampling=asdict(pipeline.sampling))
    seen = "looks at the picture" if writer.sees else "reads the instruction alone"
    return ABOUT.replace("{method}", "MGIE" if writer.sees else "LGIE").replace("{seen}", seen)


def load_writer(mllm: Source, tokenizer: Source, sees: bool, config: WriterConfig) -> InstructionWriter:
    """MGIE's language model, or LGIE's, from a folder or hub id, frozen but for what trains of its tables.

    Raises:
        BackboneError: a part is missing or broken, or does not see.
        ValueError: settings that do not fit it.
    """
    llm = load_mllm(mllm, sees=sees, dtype=config.dtype, gradient_checkpointing=config.gradient_checkpointing)
    statistics = pixel_statistics(mllm) if sees else None
    return InstructionWriter(llm, load_mllm_tokenizer(tokenizer), statistics, config)


def open_editor(
    path: str, sees: bool = True, language: WriterConfig | None = None, sampling: MGIESampling | None = None
) -> MGIEPipeline:
    """The editor of a folder that `save_mgie` wrote, frozen.

    Args:
        path: the folder, or the hub id of one.
        sees, language: as it was trained.
        sampling: how to edit.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
    """
    config = language or WriterConfig()
    vae, unet = load_vae(path), load_unet(path).to(memory_format=torch.channels_last)
    check_compatible(unet, vae=vae)
    writer = load_writer(path, path, sees, config)
    head = load_strictly(EditHead, locate(path, EDIT_HEAD), torch.float32)
    prepare(head, frozen=True, gradient_checkpointing=False)
    return MGIEPipeline(vae, unet, load_scheduler(path), writer.requires_grad_(False), head, sampling)


open_editor.backbone_settings = {  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
    "path": {part.name: part for part in (VAE, UNET, SCHEDULER, EDIT_HEAD, *MLLM_PARTS.values())}
}
