"""The metrics of CLIP and DINO: what each one compares, and when a sample is skipped; the formulas are in clip.py."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmig.metrics import clip
from mmig.metrics.bank import FeatureBank
from mmig.metrics.base import PerSampleMetric, SampleValues, sample_values


class ClipImageSimilarity(PerSampleMetric):
    """cos(f_y, f_x) or cos(f_y, f_g): the edited image and the `reference` ("source" or "target")."""

    needs_clip = True

    def __init__(self, reference: str) -> None:
        super().__init__()
        self.reference = reference

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip.cosine`."""
        values = clip.cosine(bank.image_embeddings("edited"), bank.image_embeddings(self.reference))
        return sample_values(values, {f"no_{self.reference}": ~bank.has_image(self.reference)})


class DinoSimilarity(PerSampleMetric):
    """cos(d_y, d_x) or cos(d_y, d_g) of class tokens d: the edited image and the `reference` ("source" or "target").

    DINO of EMU Edit is against the source, that of MagicBrush (and 100 times it MGIE's) against the target.
    """

    needs_dino = True

    def __init__(self, reference: str) -> None:
        super().__init__()
        self.reference = reference

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip.cosine`."""
        values = clip.cosine(bank.dino_embeddings("edited"), bank.dino_embeddings(self.reference))
        return sample_values(values, {f"no_{self.reference}": ~bank.has_image(self.reference)})


class ClipReferenceSimilarity(PerSampleMetric):
    """cos(f_y, f_r), mean over the attached pictures r of a sample that show a subject or a style: [B] in [-1,1].

    CLIP-I of the edited image and its reference pictures, as systems with several input images report it.
    """

    needs_clip = True

    def values(self, bank: FeatureBank) -> SampleValues:
        """Samples without such a picture are skipped."""
        edited, (references, rows) = bank.image_embeddings("edited"), bank.reference_embeddings()
        similarity = clip.cosine(edited[rows.to(edited.device)], references).double().cpu()
        counts = torch.bincount(rows, minlength=len(bank))
        sums = torch.zeros(len(bank), dtype=torch.float64).index_add(0, rows, similarity)
        return sample_values(sums / counts.clamp_min(1), {"no_reference": counts == 0})


class ClipTextSimilarity(PerSampleMetric):
    """A formula (raw cosine, or CLIP score) of an image and one text field of the batch.

    Args:
        formula: of the embeddings of images and texts.
        text: the field.
        image: "edited"; or "source" or "target", of which it is the text that is measured and not the edit: with
            `expressive` CLIP-S of MGIE.
    """

    needs_clip = True

    def __init__(
        self,
        formula: Callable[[Tensor, Tensor], Tensor] = clip.cosine,
        text: str = "target_caption",
        image: str = "edited",
    ) -> None:
        super().__init__()
        self.formula, self.text, self.image = formula, text, image

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip`."""
        values = self.formula(bank.image_embeddings(self.image), bank.text_embeddings(self.text))
        skipped = {} if self.image == "edited" else {f"no_{self.image}": ~bank.has_image(self.image)}
        return sample_values(values, {**skipped, f"no_{self.text}": ~bank.has_text(self.text)})


class ClipScoreTorchmetrics(ClipTextSimilarity):
    """CLIP score as torchmetrics has it: 100 cos, the mean cut at zero AFTER averaging, so in [0,100]."""

    floor = 0.0

    def __init__(self) -> None:
        super().__init__(clip.hundred_cosine)


class ClipWrittenSimilarity(PerSampleMetric):
    """cos(f, t) of the text that the editor wrote (its response) and the `image` "source" or "target": [B] in [-1,1].

    CLIP-S of MGIE, where what a language model wrote is compared with input and goal image; says nothing of the edit.
    """

    needs_clip = True

    def __init__(self, image: str) -> None:
        super().__init__()
        self.image = image

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip.cosine`."""
        values = clip.cosine(bank.image_embeddings(self.image), bank.written_embeddings("response"))
        absent = torch.tensor([not text.strip() for text in bank.written("response")], dtype=torch.bool)
        return sample_values(values, {f"no_{self.image}": ~bank.has_image(self.image), "no_text": absent})


class ClipDirectionalSimilarity(PerSampleMetric):
    """cos(f_y - f_x, t_out - t_in); a zero direction of text or image has no value and is counted as skipped.

    Where the preprocessing says so (`Preprocessing.zero_direction`) it counts as 0, as in the script it reproduces.
    """

    needs_clip = True

    def values(self, bank: FeatureBank) -> SampleValues:
        """See `mmig.metrics.clip.directional_similarity`."""
        source, edited = bank.image_embeddings("source"), bank.image_embeddings("edited")
        before, after = bank.text_embeddings("source_caption"), bank.text_embeddings("target_caption")
        skipped = {
            "no_source": ~bank.has_image("source"),
            "no_caption": ~(bank.has_text("source_caption") & bank.has_text("target_caption")),
        }
        if bank.preprocessing("clip").zero_direction == "zero":
            return sample_values(clip.directional_similarity_or_zero(source, edited, before, after), skipped)
        skipped |= {
            "zero_text_direction": clip.is_zero_direction(before, after),
            "zero_image_direction": clip.is_zero_direction(source, edited),
        }
        return sample_values(clip.directional_similarity(source, edited, before, after), skipped)
