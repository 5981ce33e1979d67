"""What works on edited pictures: the refiner's pass, and subjects that are drawn again where they are found."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mmig.backbones.parts import BackboneError
from mmig.editor import EditOutput
from mmig.methods.instruct_any2pix.decoder import load_decoder
from mmig.methods.instruct_any2pix.export import open_editor
from mmig.methods.instruct_any2pix.projectors import load_projector
from mmig.methods.instruct_any2pix.refiner import Refiner, load_refiner
from mmig.methods.instruct_any2pix.segmenting import load_segmenter
from mmig.methods.instruct_any2pix.subject_refinement import SubjectRefinement, SubjectSettings, grown, subjects_of
from mmig.methods.instruct_any2pix.vectors import load_encoder
from tests.mmig.methods.instruct_any2pix.support import (
    WIDTH,
    as_batch,
    build_refiner,
    decoder_folder,
    language,
    path,
    sample_at,
)
from tests.tiny_detectors import build_grounding_dino
from tests.tiny_saving import save, seeded

QUICK = SubjectSettings(num_steps=4, strength=0.5, guidance_scale=2.0)


def shown() -> Any:
    """A sample with a picture to edit, a subject bound to a word, and a sound."""
    found = sample_at(0)
    picture = found["source"]
    found["attachments"] = [
        {"kind": "image", "role": "base", "data": picture},
        {"kind": "image", "role": "subject", "data": sample_at(1)["target"]},
    ]
    found["instruction"] = "put the <image:1> circle into <image:0>"
    return found


def edited(count: int = 1) -> EditOutput:
    images = torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return EditOutput(images, ["a red circle"] * count, {"base": [0] * count})


def seeds(count: int = 1) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]


class Corner:
    """Finds everything in the upper left quarter, and nothing of the name of a star."""

    def __call__(self, image: torch.Tensor, phrase: str) -> torch.Tensor | None:
        mask = torch.zeros(image.shape[-2:])
        mask[:32, :32] = 1
        return None if phrase == "star" else mask


def test_subjects_are_attached_pictures_with_a_word_other_than_the_edited_one():
    chosen = as_batch([shown()])
    assert subjects_of(chosen, 0, 0) == {1: "circle"}
    assert subjects_of(chosen, 0, 1) == {}


def test_a_subject_is_drawn_again_where_it_is_and_all_else_stays():
    refine = SubjectRefinement(load_encoder(path("imagebind")), load_decoder(decoder_folder(), WIDTH), Corner(), QUICK)
    before, chosen = edited(), as_batch([shown()])
    after = refine(before, chosen, seeds())
    assert after.extras["subjects"] == [["circle"]]
    changed = (after.images - before.images)[0].abs().amax(0)
    assert changed[:28, :28].mean() > 1e-2 and changed[40:, 40:].max() == 0
    other = shown()
    other["attachments"][1]["data"] = sample_at(3)["target"]
    assert (refine(before, as_batch([other]), seeds()).images - after.images).abs().max() > 1e-4


def test_what_is_not_found_stays_bit_for_bit():
    refine = SubjectRefinement(load_encoder(path("imagebind")), load_decoder(decoder_folder(), WIDTH), Corner(), QUICK)
    unseen = shown()
    unseen["instruction"] = "put the <image:1> star into <image:0>"
    before = edited()
    after = refine(before, as_batch([unseen]), seeds())
    assert torch.equal(after.images, before.images) and after.extras["subjects"] == [[]]


def test_masks_lose_specks_grow_and_get_a_soft_edge():
    mask = torch.zeros(256, 256)
    mask[100:156, 100:156] = 1
    mask[10, 10] = 1
    found = grown(mask, SubjectSettings())  # of 1,024 pixels: 10, 40, 20; here 3, 11, 5
    assert found[10, 10] == 0 and found[128, 128] == 1
    row = found[128]
    assert ((row > 0) & (row < 1)).sum() == 2 * 4
    assert (row > 0.5).sum() == 56 - 2 + 10


def build_finders(folder: Path) -> tuple[str, str]:
    """Grounding DINO and SAM with random weights."""
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    build_grounding_dino(folder / "dino", ["a circle"])
    small = {"image_size": 64, "patch_size": 16}
    config = SamConfig(
        vision_config={
            **small,
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "global_attn_indexes": [0],
            "window_size": 2,
            "num_pos_feats": 8,
            "mlp_dim": 16,
        },
        prompt_encoder_config={**small, "hidden_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 16, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )
    with seeded(0):
        sam = SamModel(config)
    sizes = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    SamProcessor(SamImageProcessor(**sizes)).save_pretrained(folder / "sam")
    save(sam, folder / "sam", torch.float32)
    return str(folder / "dino"), str(folder / "sam")


@pytest.mark.slow
def test_subjects_may_be_refined_with_a_decoder_of_their_own(tmp_path: Path):
    module = language(decoder=True)
    module.export(tmp_path / "editor", {})
    detector, segmenter = build_finders(tmp_path)
    other = decoder_folder("of parts")
    named = {"language": module.reader.config, "detector": detector, "segmenter": segmenter}
    own, apart = (open_editor(str(tmp_path / "editor"), **named, subject_decoder=one) for one in (None, other))
    assert own.afterwards[0].decoder is own.decoder
    expected = load_projector(other).state_dict()
    found = apart.afterwards[0].decoder.projector.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert any(not torch.equal(value, expected[name]) for name, value in apart.decoder.projector.state_dict().items())


@pytest.mark.slow
def test_grounding_dino_and_sam_find_a_mask_of_the_pictures_size(tmp_path: Path):
    segmenter = load_segmenter(*build_finders(tmp_path), threshold=0.0)
    found = segmenter(edited().images[0, :, :48], "circle")
    assert found is not None and found.shape == (48, 64) and set(found.unique().tolist()) <= {0.0, 1.0}
    segmenter.threshold = 1.1
    assert segmenter(edited().images[0], "circle") is None


@pytest.fixture(scope="module")
def refiner_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_refiner(tmp_path_factory.mktemp("refiner"))


def test_the_refiner_goes_over_each_picture_by_its_own_seed(refiner_folder: str):
    refiner = load_refiner(refiner_folder, strength=0.5, num_steps=4)
    before = edited(2)
    after = refiner(before, as_batch([shown()]), seeds(2))
    assert after.images.shape == before.images.shape and after.images.abs().max() <= 1
    assert (after.images - before.images).abs().max() > 0.05
    alone = EditOutput(before.images[1:], before.texts[1:], {})
    torch.testing.assert_close(
        refiner(alone, as_batch([shown()]), seeds(2)[1:]).images[0], after.images[1], atol=1e-4, rtol=0
    )


def test_a_strength_of_0_leaves_pictures_as_they_are(refiner_folder: str):
    before = edited()
    refiner = load_refiner(refiner_folder, strength=0.0)
    assert refiner(before, as_batch([shown()]), seeds()) is before
    with pytest.raises(ValueError, match=r"^refiner.strength: expected a number in \[0, 1\]"):
        Refiner(refiner.pipeline, strength=2.0)


def test_a_folder_that_is_no_refiner_is_refused_in_one_line(tmp_path: Path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"cannot be read as SDXL's refiner: .*; fetch it again$"):
        load_refiner(str(tmp_path))
