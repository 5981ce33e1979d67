"""Detectors through transformers' Auto classes, on photographs; random, but saved, loaded and asked for real."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from mmig.backbones.parts import BackboneError
from mmig.methods.umm_diffusion.detector import Detector, check_labels, load_detector
from mmig.methods.umm_diffusion.vocabulary import SYNONYMS, Vocabulary
from tests.mmig.methods.umm_diffusion.laion_like import photograph
from tests.tiny_detectors import build_detr, build_grounding_dino, build_owlv2, build_yolos

LABELS = ["person", "cat", "hot dog", "tv"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("detectors")
    found = {"yolos": build_yolos(root / "yolos", LABELS), "detr": build_detr(root / "detr", LABELS)}
    found |= {"owlv2": build_owlv2(root / "owlv2"), "dino": build_grounding_dino(root / "dino", LABELS)}
    return {name: str(folder) for name, folder in found.items()}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """512x512 and 600x400."""
    return [Image.fromarray(photograph(name)) for name in ("astronaut", "coffee")]


def opened(folders: dict[str, str], name: str, least: float = 0.1, dtype: str = "float32") -> Detector:
    queries = LABELS if name in ("owlv2", "dino") else None
    return load_detector(folders[name], queries, least, dtype, CPU)


@pytest.mark.parametrize("name", ["yolos", "detr"])
def test_boxes_of_fixed_labels_are_the_models_in_pixels(
    name: str, folders: dict[str, str], pictures: list[Image.Image]
) -> None:
    """Against the model's own numbers: softmax without the last class, centres and sides as shares."""
    detector = opened(folders, name)
    for picture in pictures:
        with torch.no_grad():
            outputs = detector.model(**detector.processor(images=picture, return_tensors="pt"))
        scores, numbers = outputs.logits[0].softmax(-1)[:, :-1].max(-1)
        expected = []
        for score, number, box in zip(scores.tolist(), numbers.tolist(), outputs.pred_boxes[0].tolist(), strict=True):
            (x, y, w, h), (width, height) = box, picture.size
            corners = ((x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height)
            expected += [(LABELS[number], score, corners)] if score > 0.1 else []
        (found,) = detector([picture])
        assert [each.label for each in found] == [label for label, _, _ in expected] and len(found) > 3
        assert [each.score for each in found] == pytest.approx([score for _, score, _ in expected], abs=1e-6)
        for each, (_, _, corners) in zip(found, expected, strict=True):
            assert each.box == pytest.approx(corners, abs=0.01)


def test_boxes_of_an_open_vocabulary_are_the_models_in_pixels(
    folders: dict[str, str], pictures: list[Image.Image]
) -> None:
    """OWLv2 sees a square that is padded below or at the right: shares are of the longer side."""
    detector = opened(folders, "owlv2")
    for picture in pictures:
        inputs = detector.processor(text=[LABELS], images=picture, return_tensors="pt")
        with torch.no_grad():
            outputs = detector.model(**inputs)
        best = outputs.logits[0].max(-1)
        kept = best.values.sigmoid() > 0.1
        side = max(picture.size)
        x, y, w, h = (outputs.pred_boxes[0][kept] * side).unbind(-1)
        corners = torch.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
        (found,) = detector([picture])
        assert [each.label for each in found] == [LABELS[number] for number in best.indices[kept]] and found
        for each, expected in zip(found, corners.tolist(), strict=True):
            assert each.box == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("name", ["yolos", "owlv2", "dino"])
def test_pictures_shown_together_are_judged_as_each_alone(
    name: str, folders: dict[str, str], pictures: list[Image.Image]
) -> None:
    detector = opened(folders, name)
    alone, together = [detector([picture])[0] for picture in pictures], detector(pictures)
    assert [[each.label for each in boxes] for boxes in together] == [[each.label for each in boxes] for boxes in alone]
    assert sum(map(len, alone)) > 0
    for boxes, others in zip(together, alone, strict=True):
        for each, other in zip(boxes, others, strict=True):
            assert each.box == pytest.approx(other.box, abs=2.0)  # pixels: padding and rounding


def test_half_precision_and_a_higher_least_score(folders: dict[str, str], pictures: list[Image.Image]) -> None:
    whole, half = opened(folders, "yolos"), opened(folders, "yolos", dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16 and half(pictures)[0]
    fewer = opened(folders, "yolos", least=0.4)(pictures)
    assert fewer == [[each for each in boxes if each.score > 0.4] for boxes in whole(pictures)]


def test_detectors_and_labels_that_do_not_fit_are_one_clear_line(folders: dict[str, str], tmp_path: Path) -> None:
    for path, queries, said in (
        (folders["owlv2"], None, "expected model_type a detector's of fixed labels, such as yolos"),
        (folders["yolos"], LABELS, "expected model_type an open-vocabulary detector's, such as owlv2"),
        (str(tmp_path / "nowhere"), None, "detector: the folder .* does not exist"),
    ):
        with pytest.raises(BackboneError, match=said) as caught:
            load_detector(path, queries, 0.1, "float32", CPU)
        assert "\n" not in str(caught.value)
    detector = opened(folders, "yolos")
    check_labels(detector, ["cat", "television"], Vocabulary(SYNONYMS))
    for label, said in (
        ("cats", r"no label 'cats'; did you mean 'cat'\?"),
        ("zebra", "no label 'zebra'; it has cat, h"),
    ):
        with pytest.raises(BackboneError, match=said):
            check_labels(detector, [label], Vocabulary())
    with pytest.raises(BackboneError, match=r"labels: 200 labels are .* tokens, of which the detector reads 256"):
        load_detector(folders["dino"], ["person"] * 200, 0.1, "float32", CPU)([Image.new("RGB", (64, 64))])
