"""Where a thing is in a picture, by its name: a detector of an open vocabulary finds it, SAM cuts it out."""

from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from mmig.backbones.hub import locate
from mmig.backbones.loading import load_strictly, prepare
from mmig.backbones.parts import BLIP2_PROCESSOR, BackboneError, Part

DETECTOR = Part("detector", "")
SEGMENTER = Part("segmenter", "", kinds=("sam",))
PROCESSOR = Part("processor", "", BLIP2_PROCESSOR.files, has_weights=False)


class Segmenter(Protocol):
    """Finds things by their names."""

    def __call__(self, image: Tensor, phrase: str) -> Tensor | None:
        """Mask float [H,W] in {0,1} of what a phrase names in a picture [3,H,W] in [-1,1]; None where it is not."""
        ...


class GroundedSegmenter:
    """Grounding DINO's best box of a phrase, and SAM's mask in it.

    Args:
        detector, detector_processor: of transformers, for labels in words.
        sam, sam_processor: of transformers.
        threshold: score that a box must have; 0.35 as released.
    """

    def __init__(
        self, detector: Any, detector_processor: Any, sam: Any, sam_processor: Any, threshold: float = 0.35
    ) -> None:
        self.detector, self.detector_processor = detector, detector_processor
        self.sam, self.sam_processor, self.threshold = sam, sam_processor, threshold

    def to(self, device: torch.device | str) -> "GroundedSegmenter":
        """On a device."""
        self.detector.to(device)
        self.sam.to(device)
        return self

    @torch.no_grad()
    def __call__(self, image: Tensor, phrase: str) -> Tensor | None:
        """As of `Segmenter`."""
        pixels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()
        picture = Image.fromarray(pixels)
        box = self._box(picture, phrase)
        if box is None:
            return None
        inputs = self.sam_processor(picture, input_boxes=[[box]], return_tensors="pt").to(self.sam.device)
        found = self.sam(**inputs, multimask_output=True)
        masks = self.sam_processor.post_process_masks(
            found.pred_masks.cpu(), inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        )[0][0]
        return masks[int(found.iou_scores[0, 0].argmax())].float().to(image.device)

    def _box(self, picture: Image.Image, phrase: str) -> list[float] | None:
        """The best box of a phrase, in pixels; None where none has the score."""
        inputs = self.detector_processor(images=[picture], text=[[phrase]], return_tensors="pt")
        outputs = self.detector(**inputs.to(self.detector.device))
        (found,) = self.detector_processor.post_process_grounded_object_detection(
            outputs, text_labels=[[phrase]], threshold=self.threshold, target_sizes=[picture.size[::-1]]
        )
        if not len(found["scores"]):
            return None
        return found["boxes"][int(found["scores"].argmax())].tolist()


def load_segmenter(detector: str, sam: str, threshold: float = 0.35) -> GroundedSegmenter:
    """Both models from folders or hub ids, frozen.

    Raises:
        BackboneError: a missing or broken file.
    """
    from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, SamModel, SamProcessor

    parts = []
    for model_class, processor_class, path, part in (
        (AutoModelForZeroShotObjectDetection, AutoProcessor, detector, DETECTOR),
        (SamModel, SamProcessor, sam, SEGMENTER),
    ):
        model = load_strictly(model_class, locate(path, part), torch.float32)
        folder = locate(path, PROCESSOR)
        try:
            processor = processor_class.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # json, tokenizers' Rust errors, OSError
            raise BackboneError(f"{folder}: cannot be read as a processor: {error}; fetch it again") from error
        parts += [prepare(model, frozen=True, gradient_checkpointing=False), processor]
    return GroundedSegmenter(*parts, threshold=threshold)
