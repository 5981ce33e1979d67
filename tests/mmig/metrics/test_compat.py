"""The `compat` presets: each figure is that of the published script, whose arithmetic stands here a second time.

Nothing of `mmig.metrics` prepares a picture here: Pillow, torchvision's transforms and numpy do, as the scripts do.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

from datamodules.schema import image_to_tensor
from mmig.backbones.image_model import load_image_model
from mmig.evaluation.editors import FolderOfPictures
from mmig.metrics.clip_encoder import ClipEncoder
from mmig.metrics.dino_encoder import DINO_PRESETS, DinoEncoder
from mmig.metrics.preprocess import PRESETS
from mmig.metrics.suite import MetricSuite
from tests.tiny_vision import build_dino

CLOSE = 1e-4
INSTRUCT_PIX2PIX = {
    "sim_0": "clip_text_similarity_input",
    "sim_1": "clip_text_similarity",
    "sim_direction": "clip_directional_similarity",
    "sim_image": "clip_image_similarity_input",
}
MAGICBRUSH = {
    "L1": "l1_target",
    "L2": "l2_target",
    "CLIP-I": "clip_image_similarity_target",
    "CLIP-T": "clip_text_similarity",
    "CLIP-T oracle": "clip_text_similarity_target",
    "DINO": "dino_target",
}
Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """One sample and its edited picture, which may have another size."""

    source: Image.Image
    target: Image.Image
    edited: Image.Image
    captions: tuple[str, str] = ("a cup on a table", "a blue cup on a table")

    @property
    def batch(self) -> dict[str, Any]:
        """The sample as a batch of one."""
        images = {name: image_to_tensor(getattr(self, name))[None] for name in ("source", "target")}
        texts = {"source_caption": [self.captions[0]], "target_caption": [self.captions[1]]}
        return {"key": ["one"], **images, **texts}


def case(size: tuple[int, int], edited_size: tuple[int, int], number: int) -> Case:
    """Parts of photographs, of fine texture, and noise on the edited one."""
    left, top = 40 + 12 * number, 30 + 7 * number
    source = Image.fromarray(data.coffee()).crop((left, top, left + size[0], top + size[1]))
    target = np.array(source)
    target[size[1] // 4 : size[1] // 2, size[0] // 3 :, 0] ^= 255
    noise = np.random.default_rng(number).normal(0, 25, target.shape)
    edited = Image.fromarray((target * 0.8 + noise + 20).clip(0, 255).astype(np.uint8))
    return Case(source, Image.fromarray(target), edited.resize(edited_size, Image.Resampling.LANCZOS))


def cases(shape: str) -> list[Case]:
    """Edited pictures of the same size, larger and smaller ones; one is unchanged, one has equal captions."""
    width, height = {"square": (150, 150), "wide": (186, 124), "tall": (90, 180)}[shape]
    found = [
        case((width, height), (round(width * factor), round(height * factor)), number)
        for number, factor in enumerate((1, 2, 0.5, 3))
    ]
    unchanged = replace(found[0], edited=found[0].source)
    return [*found, unchanged, replace(found[0], captions=("a cup", "a cup"))]


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_dino(tmp_path_factory.mktemp("dino"))


def suite_of(preset: str, names: dict[str, str], encoder: ClipEncoder, dino_folder: Path) -> MetricSuite:
    """Metrics by the presets of that name, of tiny models."""
    from mmig.backbones.clip import OpenClip

    mean, std = (tuple(values.flatten().tolist()) for values in (encoder._mean, encoder._std))
    parts = OpenClip(encoder.model, encoder.tokenizer, encoder.image_size, mean, std, encoder.context_length)
    dino = DinoEncoder(load_image_model(dino_folder), DINO_PRESETS.get(preset))
    return MetricSuite(names.values(), ClipEncoder(parts, PRESETS[preset]), dino=dino)


def ours(suite: MetricSuite, names: dict[str, str], given: list[Case], folder: Path) -> list[Figures]:
    """Every case's figures under the script's names, of edited pictures that lie in a folder."""
    found = []
    for one in given:
        one.edited.save(folder / "one.png")
        output = FolderOfPictures(folder)(one.batch, torch.Generator())
        values = suite.update(suite.bank(one.batch, output.images, extras=output.extras))
        found.append({figure: float(values[name].values[0]) for figure, name in names.items()})
    return found


def cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


def features(model: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> NDArray[np.float64]:
    with torch.no_grad():
        return model(pixels[None])[0].double().numpy()


def text_features(encoder: ClipEncoder, text: str) -> NDArray[np.float64]:
    with torch.no_grad():
        return encoder.model.encode_text(encoder.tokenizer([text], context_length=77))[0].double().numpy()


def of_instruct_pix2pix(one: Case, encoder: ClipEncoder, dino_folder: Path) -> Figures:
    """What its metrics script computes: [-1,1] where CLIP's constants are for [0,1], squashed, no antialiasing."""
    side, (mean, std) = encoder.image_size, (encoder._mean[0], encoder._std[0])

    def seen(picture: Image.Image) -> NDArray[np.float64]:
        signed = 2 * torch.tensor(np.array(picture)).float().permute(2, 0, 1) / 255 - 1
        small = torch.nn.functional.interpolate(signed[None], (side, side), mode="bicubic", align_corners=False)[0]
        found = features(encoder.model.encode_image, (small - mean) / std)
        return found / np.linalg.norm(found)

    before, after = (text_features(encoder, text) for text in one.captions)
    before, after = before / np.linalg.norm(before), after / np.linalg.norm(after)
    source, edited = seen(one.source), seen(one.edited)
    is_zero = one.edited == one.source or one.captions[0] == one.captions[1]
    return {
        "sim_0": cosine(source, before),
        "sim_1": cosine(edited, after),
        "sim_direction": 0.0 if is_zero else cosine(edited - source, after - before),
        "sim_image": cosine(source, edited),
    }


def of_magicbrush(one: Case, encoder: ClipEncoder, dino_folder: Path) -> Figures:
    """What its evaluation script computes: transforms of PIL images in their own sizes, pixels at the target's size."""
    bicubic, dino = InterpolationMode.BICUBIC, load_image_model(dino_folder)
    clip_side, dino_side = encoder.image_size, dino.image_size
    normalise = Normalize(encoder._mean.flatten().tolist(), encoder._std.flatten().tolist())
    for_clip = Compose([Resize(clip_side, bicubic), CenterCrop(clip_side), ToTensor(), normalise])
    for_dino = Compose([Resize(256, bicubic), CenterCrop(dino_side), ToTensor(), Normalize(dino.mean, dino.std)])

    def class_token(pixels: torch.Tensor) -> torch.Tensor:
        return dino.model(pixel_values=pixels).last_hidden_state[:, 0]

    edited, target = (features(encoder.model.encode_image, for_clip(image)) for image in (one.edited, one.target))
    tokens = [features(class_token, for_dino(image)) for image in (one.edited, one.target)]
    at_target_size = np.asarray(one.edited.resize(one.target.size)) / 255
    difference = at_target_size - np.asarray(one.target) / 255
    text = text_features(encoder, one.captions[1])
    return {
        "L1": float(np.abs(difference).mean()),
        "L2": float((difference**2).mean()),
        "CLIP-I": cosine(edited, target),
        "CLIP-T": cosine(edited, text),
        "CLIP-T oracle": cosine(target, text),
        "DINO": cosine(*tokens),
    }


SCRIPTS = {
    "compat_ip2p": (INSTRUCT_PIX2PIX, of_instruct_pix2pix),
    "compat_magicbrush": (MAGICBRUSH, of_magicbrush),
}


@pytest.mark.parametrize("shape", ["square", "wide", "tall"])
@pytest.mark.parametrize("preset", SCRIPTS)
def test_every_figure_and_its_mean_are_those_of_the_script(
    preset: str, shape: str, encoder: ClipEncoder, dino_folder: Path, tmp_path: Path
) -> None:
    names, script = SCRIPTS[preset]
    given = cases(shape)
    suite = suite_of(preset, names, encoder, dino_folder)
    found, theirs = ours(suite, names, given, tmp_path), [script(one, encoder, dino_folder) for one in given]
    for mine, of_script in zip(found, theirs, strict=True):
        assert mine == pytest.approx(of_script, abs=CLOSE, rel=0)
    means = {figure: np.mean([one[figure] for one in theirs]) for figure in names}  # of the means of each picture
    computed = suite.compute()
    assert {figure: computed[name] for figure, name in names.items()} == pytest.approx(means, abs=CLOSE, rel=0)


@pytest.mark.parametrize("preset", SCRIPTS)
def test_the_default_gives_other_figures(preset: str, encoder: ClipEncoder, dino_folder: Path, tmp_path: Path) -> None:
    names, script = SCRIPTS[preset]
    given = cases("wide")[:4]
    found = ours(suite_of("default", names, encoder, dino_folder), names, given, tmp_path)
    theirs = [script(one, encoder, dino_folder) for one in given]
    for figure in names.keys() - {"L1", "L2"}:  # which no preprocessing changes
        apart = [abs(mine[figure] - of_script[figure]) for mine, of_script in zip(found, theirs, strict=True)]
        assert max(apart) > 3 * CLOSE, figure


@pytest.mark.parametrize("preset", SCRIPTS)
def test_without_one_of_its_defects_a_preset_gives_other_figures(
    preset: str, encoder: ClipEncoder, dino_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, script = SCRIPTS[preset]
    without: dict[str, dict[str, Any]] = {
        "compat_ip2p": {"antialias": True, "input_range": "unit", "edited_size": "sample", "zero_direction": "skip"},
        "compat_magicbrush": {"resizer": "torch", "resize": "squash", "edited_size": "sample"},
    }
    given = cases("wide")
    theirs = [list(script(one, encoder, dino_folder).values()) for one in given]
    for field, value in without[preset].items():
        monkeypatch.setitem(PRESETS, "mended", replace(PRESETS[preset], **{field: value}))
        monkeypatch.setitem(DINO_PRESETS, "mended", DINO_PRESETS["compat_magicbrush"])
        found = ours(suite_of("mended", names, encoder, dino_folder), names, given, tmp_path)
        mine = np.array([list(of_case.values()) for of_case in found])
        assert not np.allclose(mine, theirs, atol=CLOSE, rtol=0), field


@pytest.mark.parametrize("preset", SCRIPTS)
def test_pictures_of_several_sizes_in_one_batch_have_the_figures_that_they_have_alone(
    preset: str, encoder: ClipEncoder, dino_folder: Path, tmp_path: Path
) -> None:
    names, _ = SCRIPTS[preset]
    given, suite = cases("square")[:4], suite_of(preset, names, encoder, dino_folder)
    alone = ours(suite, names, given, tmp_path)
    (tmp_path / "one.png").unlink()
    batch: dict[str, Any] = {name: [one.batch[name][0] for one in given] for name in given[0].batch}
    batch |= {name: torch.stack(batch[name]) for name in ("source", "target")}
    batch["key"] = [f"sample{number}" for number in range(len(given))]
    for number, one in enumerate(given[:3]):  # none of the last
        one.edited.save(tmp_path / f"sample{number}.png")
    output = FolderOfPictures(tmp_path)(batch, torch.Generator())
    bank = suite.bank(batch, output.images, extras=output.extras)
    values = suite.update(bank)
    assert bank.resized_from == [None, (300, 300), (75, 75), None]
    for figure, name in names.items():
        found = values[name].values.tolist()[:3]
        assert found == pytest.approx([one[figure] for one in alone[:3]], abs=1e-5), figure
    assert values["clip_text_similarity"].reasons == [None, None, None, "no_picture"]


def test_what_an_editor_gives_in_another_size_is_resized_as_a_picture_of_a_folder_is(
    encoder: ClipEncoder, dino_folder: Path, tmp_path: Path
) -> None:
    one = cases("wide")[1]
    suite = suite_of("compat_magicbrush", MAGICBRUSH, encoder, dino_folder)
    values = suite.update(suite.bank(one.batch, image_to_tensor(one.edited)[None]))
    found = {figure: float(values[name].values[0]) for figure, name in MAGICBRUSH.items()}
    assert found == pytest.approx(ours(suite, MAGICBRUSH, [one], tmp_path)[0], abs=1e-6)


def test_a_preset_says_which_script_it_reproduces_and_its_defects(encoder: ClipEncoder, dino_folder: Path) -> None:
    described = suite_of("compat_ip2p", INSTRUCT_PIX2PIX, encoder, dino_folder).tools.describe()
    assert described["clip"]["preprocessing"]["reproduces"] == "metrics/clip_similarity.py of InstructPix2Pix"
    assert len(described["clip"]["preprocessing"]["defects"]) == 3
    assert "reproduces" not in described["dino"]["preprocessing"]
