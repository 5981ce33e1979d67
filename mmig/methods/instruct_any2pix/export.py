"""InstructAny2Pix as a folder, a sub-folder a part, and what opens them together as an editor."""

from dataclasses import asdict, fields
from pathlib import Path

import torch

from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.parts import IMAGEBIND_PARTS
from mmig.checkpoints.folders import write_editor
from mmig.diffusion.saving import forget_origins, save_parts
from mmig.methods.instruct_any2pix.decoder import DECODER_PARTS, Decoder, load_decoder, save_decoder
from mmig.methods.instruct_any2pix.editor import Any2PixEditor, Any2PixSampling, PostProcessor
from mmig.methods.instruct_any2pix.prior import PRIOR, RefinementPrior, load_prior
from mmig.methods.instruct_any2pix.reader import (
    LANGUAGE_PARTS,
    VECTOR_PROJECTORS,
    InstructionReader,
    ReaderConfig,
    VectorProjectors,
    load_reader,
)
from mmig.methods.instruct_any2pix.refiner import load_refiner
from mmig.methods.instruct_any2pix.segmenting import load_segmenter
from mmig.methods.instruct_any2pix.subject_refinement import SubjectRefinement
from mmig.methods.instruct_any2pix.vectors import VectorEncoder, load_encoder, save_encoder
from mmig.training.lora import merge_lora

ABOUT = """Editing by instructions of text, pictures and sounds with InstructAny2Pix (Li et al. 2023): a language \
model reads all of them, finds the picture to edit, and says what is to come of it as one vector, which a diffusion \
model draws from the inverted picture.

## Use

`python edit.py --checkpoint {name} --attach audio=bark.wav --attach image=cat.png --instruction "add <audio:0> to \
<image:1>" --out edited.png`

A folder without a decoder needs one: configs/editors/instruct_any2pix.yaml."""
"""What a folder's card says; `name` is the folder's."""


def save_any2pix(
    encoder: VectorEncoder,
    reader: InstructionReader,
    prior: RefinementPrior,
    decoder: Decoder | None,
    sampling: Any2PixSampling | None,
    folder: Path,
) -> str:
    """Write all parts, low-rank updates merged, and editor.yaml where there is a decoder; see `TrainingModule.export`.

    `llm` is complete for transformers, with the tokenizer that knows [base] and [gen], and their rows in its tables.
    """
    merge_lora(reader.llm)
    reader.tokens.write_into(reader.llm)
    save_parts(folder, {"llm": reader.llm, "vector_projectors": reader.projectors, "prior": prior})
    reader.tokenizer.save_pretrained(folder / "llm")
    save_encoder(encoder, folder)
    if decoder is not None:
        save_decoder(decoder, folder)
    forget_origins(folder)
    if decoder is not None:
        language = {item.name: getattr(reader.config, item.name) for item in fields(ReaderConfig)}
        language |= {"rows": "all", "gradient_checkpointing": False}
        write_editor(folder, f"{__name__}.open_editor", language=language, sampling=sampling and asdict(sampling))
    return ABOUT


def open_editor(
    path: str,
    decoder: str | None = None,
    prior: str | None = None,
    imagebind: str | None = None,
    language: ReaderConfig | None = None,
    sampling: Any2PixSampling | None = None,
    detector: str | None = None,
    segmenter: str | None = None,
    subject_decoder: str | None = None,
    refiner: str | None = None,
    refiner_strength: float = 0.3,
) -> Any2PixEditor:
    """The editor of a folder that `save_any2pix` wrote or of a run of a language phase, frozen.

    Args:
        path: the folder, the hub id of one, or a run.
        decoder, prior, imagebind: folders or runs of others, which take the place of the folder's own.
        language: as it was trained.
        sampling: how to edit.
        detector, segmenter: folders or hub ids of an open-vocabulary detector and of SAM, both of which together refine
            subjects; None leaves that out.
        subject_decoder: folder or run of the decoder that subjects are refined with; None: the one that edits.
        refiner: folder of SDXL's refiner; None leaves it out.
        refiner_strength: how far its noise goes.

    Raises:
        BackboneError: a part is missing, broken or does not fit the others.
        ValueError: a detector without a segmenter, or the other way round, or a decoder of subjects without them.
    """
    if (detector is None) != (segmenter is None):
        raise ValueError("detector, segmenter: expected both or none; the one's boxes are what the other cuts out in")
    if subject_decoder is not None and detector is None:
        raise ValueError("subject_decoder: expected a detector and a segmenter beside it, which find subjects")
    encoder = load_encoder(imagebind or path)
    reader = load_reader(path, path, encoder.width, language or ReaderConfig())
    reader.projectors = load_strictly(VectorProjectors, locate(path, VECTOR_PROJECTORS), torch.float32)
    prepare(reader, frozen=True, gradient_checkpointing=False)
    drawing = load_decoder(decoder or path, encoder.width)
    afterwards: list[PostProcessor] = []
    if detector is not None and segmenter is not None:
        again = load_decoder(subject_decoder, encoder.width) if subject_decoder else drawing
        afterwards.append(SubjectRefinement(encoder, again, load_segmenter(detector, segmenter)))
    if refiner is not None:
        afterwards.append(load_refiner(refiner, strength=refiner_strength))
    return Any2PixEditor(encoder, reader, load_prior(prior or path), drawing, sampling, afterwards)


open_editor.backbone_settings = {  # type: ignore[attr-defined]  # for `python -m mmig.backbones fetch`
    "path": LANGUAGE_PARTS | IMAGEBIND_PARTS | {"vector_projectors": VECTOR_PROJECTORS, "prior": PRIOR} | DECODER_PARTS,
    "decoder": DECODER_PARTS,
    "subject_decoder": DECODER_PARTS,
    "prior": {"prior": PRIOR},
    "imagebind": IMAGEBIND_PARTS,
}
