"""MMIG as a folder that `MMIGPipeline.from_pretrained` opens."""

from pathlib import Path

from mmig.checkpoints.folders import write_editor
from mmig.diffusion.saving import forget_origins, keep_domain
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.pipeline import MMIGPipeline, SamplingConfig
from mmig.training.lora import merge_lora

READ_BY = {"llm": "llm_tokenizer", "captioner": "captioner_processor"}
"""Parts whose tokenizer or processor transformers, and a run that starts from them, expect in the same folder."""
OPENED_BY = "mmig.methods.mmig.editor.open_editor"
ABOUT = """Instruction-guided image editing with MMIG: a multimodal LLM describes the edited image, a latent diffusion \
model with mutual support modules makes it, and a captioner, where there is one, says what became of it.

## Use

```python
from PIL import Image
from mmig.methods.mmig.pipeline import MMIGPipeline

pipe = MMIGPipeline.from_pretrained("{name}")
edited = pipe(Image.open("in.png"), "make the ball blue")
edited.images[0].save("out.png")
print(edited.descriptions[0], edited.captions)
```"""
"""What a folder's card says; `name` is the folder's."""


def save_mmig(model: MMIG, sampling: SamplingConfig, resolution: int | None, folder: Path) -> str:
    """Write the pipeline of a model, edited at this resolution where it is known; see `TrainingModule.export`.

    Low-rank updates are merged into their weights. The folders of the language model and of the captioner are complete
    for transformers, with tokenizer or processor.
    """
    merge_lora(model)
    pipeline = MMIGPipeline.from_model(model, sampling, resolution)
    pipeline.save_pretrained(folder)
    keep_domain(pipeline.vae, folder / "vae")
    for part, reader in READ_BY.items():
        if getattr(pipeline, reader) is not None:
            getattr(pipeline, reader).save_pretrained(folder / part)
    forget_origins(folder)
    write_editor(folder, OPENED_BY)
    return ABOUT
