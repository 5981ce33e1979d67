"""Object detectors of transformers, of fixed labels (`AutoModelForObjectDetection`: YOLOS, DETR, RT-DETR, ...) or of
labels given in words (`AutoModelForZeroShotObjectDetection`: OWLv2, Grounding DINO, ...), as one function of pictures.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from mmig.backbones.files import check_kind
from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.named import Source
from mmig.backbones.parts import BLIP2_PROCESSOR, BackboneError, Part
from mmig.base.commands import nearest
from mmig.methods.umm_diffusion.crop_rules import FoundBox
from mmig.methods.umm_diffusion.vocabulary import Vocabulary

DETECTOR = Part("detector", "")
DETECTOR_PROCESSOR = Part("detector_processor", "", BLIP2_PROCESSOR.files, has_weights=False)


class Detector:
    """Finds objects in pictures.

    Args:
        model: of one of the two kinds, frozen, on its device.
        processor: its processor.
        queries: what an open vocabulary is asked for; None for a model of fixed labels.
        least_score: of what is returned.
    """

    def __init__(self, model: Any, processor: Any, queries: Sequence[str] | None, least_score: float) -> None:
        self.model, self.processor, self.least_score = model, processor, least_score
        self.queries = None if queries is None else list(queries)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image]) -> list[list[FoundBox]]:
        """Boxes of each picture in its own pixels, as the detector gives them: they may reach outside.

        Args:
            pictures: RGB, any sizes.
        """
        given: dict[str, Any] = {"images": list(pictures), "return_tensors": "pt"}
        if self.queries is not None:
            given["text"] = [self.queries] * len(pictures)
        inputs = self.processor(**given).to(self.model.device, self.model.dtype)
        self._check_room(inputs)
        outputs = self.model(**inputs)
        sizes = torch.tensor([picture.size[::-1] for picture in pictures], device=self.model.device)
        return [self._boxes(found) for found in self._found(outputs, inputs, sizes)]

    def _found(self, outputs: Any, inputs: Any, sizes: torch.Tensor) -> list[dict[str, Any]]:
        settings = {"threshold": self.least_score, "target_sizes": sizes}
        if self.queries is None:
            found = self.processor.post_process_object_detection(outputs, **settings)
            names = self.model.config.id2label
            return [each | {"names": [names[int(number)] for number in each["labels"]]} for each in found]
        queries = [self.queries] * len(sizes)
        found = self.processor.post_process_grounded_object_detection(outputs, text_labels=queries, **settings)
        return [dict(each) | {"names": each["text_labels"]} for each in found]

    def _boxes(self, found: dict[str, Any]) -> list[FoundBox]:
        rows = zip(found["names"], found["scores"].tolist(), found["boxes"].tolist(), strict=True)
        return [FoundBox(name, round(score, 6), tuple(round(place, 2) for place in box)) for name, score, box in rows]

    def _check_room(self, inputs: Any) -> None:
        """Grounding DINO reads all queries as one text."""
        room = getattr(self.model.config, "max_text_len", None)
        if self.queries is not None and room is not None and inputs["input_ids"].shape[1] > room:
            raise BackboneError(
                f"labels: {len(self.queries)} labels are {inputs['input_ids'].shape[1]} tokens, of which the detector "
                f"reads {room}; give fewer"
            )


def load_detector(
    path: Source,
    queries: Sequence[str] | None,
    least_score: float,
    dtype: str,
    device: torch.device,
) -> Detector:
    """A detector from a folder or hub id.

    Args:
        path: with model and processor.
        queries: of an open vocabulary; None: the model has its own labels.
        least_score: of what it returns.
        dtype: name of the precision.
        device: that computes.

    Raises:
        BackboneError: a missing or broken file, or a model of another kind.
    """
    from transformers import (
        AutoImageProcessor,
        AutoModelForObjectDetection,
        AutoModelForZeroShotObjectDetection,
        AutoProcessor,
    )
    from transformers.models.auto import modeling_auto

    folder = locate(path, DETECTOR)
    if queries is None:
        model_class, processor_class = AutoModelForObjectDetection, AutoImageProcessor
        kinds = modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
        words = "a detector's of fixed labels, such as yolos (one of an open vocabulary needs open_vocabulary)"
    else:
        model_class, processor_class = AutoModelForZeroShotObjectDetection, AutoProcessor
        kinds = modeling_auto.MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES
        words = "an open-vocabulary detector's, such as owlv2 (one of fixed labels goes without open_vocabulary)"
    check_kind(folder / "config.json", "model_type", kinds, words)
    processor_folder = locate(path, DETECTOR_PROCESSOR)
    try:
        processor = processor_class.from_pretrained(processor_folder, local_files_only=True)
    except Exception as error:  # json, tokenizers' Rust errors, OSError
        raise BackboneError(f"{processor_folder}: cannot be read as a processor: {error}; fetch it again") from error
    model = load_strictly(model_class, folder, dtype)
    return Detector(
        prepare(model, frozen=True, gradient_checkpointing=False).to(device), processor, queries, least_score
    )


def check_labels(detector: Detector, labels: Sequence[str], vocabulary: Vocabulary) -> None:
    """Refuse labels that a detector of fixed ones never gives.

    Raises:
        BackboneError: naming the first of them, and the nearest one that it has.
    """
    known = {vocabulary.label(name) for name in detector.model.config.id2label.values()}
    for label in labels:
        if vocabulary.label(label) not in known:
            close = nearest(label, sorted(known))
            hint = f"; did you mean {close!r}?" if close else f"; it has {', '.join(sorted(known)[:5])}, ..."
            raise BackboneError(f"labels: the detector has no label {label!r}{hint}")
