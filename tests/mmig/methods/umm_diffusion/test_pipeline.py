"""The pipeline for people: words or positions, and every bad input one clear line."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import edit
from mmig.editor import with_settings
from mmig.evaluation.opening import open_checkpoint
from mmig.methods.umm_diffusion.pipeline import UMMDiffusionPipeline, word_spans
from mmig.methods.umm_diffusion.words import SubjectError
from mmig.run.export import export_run
from tests.mmig.methods.umm_diffusion.support import folders, module, picture, save_umm_run
from tests.saved_run import save_run

TEXT = "a circle is under a square"


@pytest.fixture(scope="module")
def pipe() -> UMMDiffusionPipeline:
    return UMMDiffusionPipeline(with_settings(module(1).make_pipeline(), {"num_steps": 2}))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_umm_run(tmp_path_factory.mktemp("runs") / "umm")


def pixels(image: Image.Image) -> bytes:
    return image.tobytes()


def test_words_and_positions_are_the_papers() -> None:
    assert word_spans("A dog is under a tower", {2: None, 6: None}) == [(2, 5), (17, 22)]  # p = 2, 6
    assert word_spans("A Dog is under a tower", {"tower": None, "dog": None}) == [(17, 22), (2, 5)]
    assert word_spans("a fire hydrant, red", {"fire hydrant": None}) == [(2, 14)]


def test_a_word_is_its_position(pipe: UMMDiffusionPipeline) -> None:
    by_word, by_position = pipe(TEXT, {"circle": picture()})[0], pipe(TEXT, {2: picture()})[0]
    assert pixels(by_word) == pixels(by_position) and by_word.size == (64, 64)


def test_images_of_a_text_differ_and_have_the_size_that_is_wanted(pipe: UMMDiffusionPipeline) -> None:
    subjects = {"circle": picture(), "square": picture("blue")}
    found = pipe(TEXT, subjects, generator=3, num_images=2, resolution=(48, 32), fuse_ratio=1.0)
    assert [image.size for image in found] == [(48, 32)] * 2 and pixels(found[0]) != pixels(found[1])
    assert pipe.editor.sampling.fuse_ratio == 0.5


def test_grey_and_transparent_pictures_are_read_by_the_rule_of_the_data(pipe: UMMDiffusionPipeline) -> None:
    grey = picture().convert("L")
    assert pixels(pipe(TEXT, {2: grey})[0]) == pixels(pipe(TEXT, {2: grey.convert("RGB")})[0])
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    clear.paste((255, 0, 0, 255), (5, 5, 20, 20))
    assert pixels(pipe(TEXT, {2: clear})[0]) == pixels(pipe(TEXT, {2: picture("red")})[0])  # on white


@pytest.mark.parametrize(
    ("text", "subjects", "said"),
    [
        (TEXT, {}, "subjects: expected at least one picture, {word: picture}, found none"),
        ("circle", {"circle": 0, "square": 1}, "subjects: 2 pictures for the 1 words of 'circle'; give fewer"),
        (TEXT, {"dog": 0}, f"subjects: the word 'dog' is not in '{TEXT}'"),
        (TEXT, {"circ": 0}, f"subjects: the word 'circ' is not in '{TEXT}'"),
        (TEXT, {"a": 0}, f"subjects: the word 'a' is 2 times in '{TEXT}'; give its position instead"),
        (TEXT, {7: 0}, f"subjects: position 7: expected one of the words 1 to 6 of '{TEXT}'"),
        (TEXT, {0: 0}, f"subjects: position 0: expected one of the words 1 to 6 of '{TEXT}'"),
        (TEXT, {"circle": 0, 2: 0}, f"subjects: 'circle' and 2 are one word of '{TEXT}'; give it one picture"),
        (" ,", {"circle": 0}, "text: expected words, found none; say what the image is to show"),
        (
            "a <image:0> dog",
            {"dog": 0},
            "text: <image:0> is for edit.py and shards; leave it out, `subjects` says the word",
        ),
        (TEXT, {"circle": "dog.png"}, "subjects['circle']: expected a PIL image, found str"),
        (
            TEXT,
            {"circle": Image.new("RGB", (1, 1))},
            "subjects['circle']: a picture of 1x1 pixels shows no subject; give a larger one",
        ),
        (
            "red " * 80 + "circle",
            {"circle": picture()},
            "sample 'image 0': subject 0: its word 'circle' is token 81 of the text, of which the text encoder reads "
            "75; say it earlier",
        ),
    ],
)
def test_bad_input_is_one_clear_line(pipe: UMMDiffusionPipeline, text: str, subjects: Any, said: str) -> None:
    with pytest.raises(SubjectError) as caught:
        pipe(text, subjects)
    assert str(caught.value) == said


def test_a_run_is_opened_and_another_method_is_not(run: Path, tmp_path: Path) -> None:
    found = UMMDiffusionPipeline.from_pretrained(run)(TEXT, {"circle": picture()}, generator=1)
    assert len(found) == 1
    root = str(folders()[0])
    settings = {"optimizer": {"lr": 1e-3}, "loss_weights": {"sdm": 1.0}, "backbone": root, "unet": root}
    other = save_run(tmp_path / "other", "mmig.methods.latent_diffusion.text_to_image.TextToImageModule", settings)
    with pytest.raises(ValueError, match="expected a model of UMM-Diffusion, found a TextToImagePipeline"):
        UMMDiffusionPipeline.from_pretrained(other)


def test_edit_py_takes_the_picture_of_a_word(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture().save(tmp_path / "dog.png")
    options = ["--checkpoint", str(run), "--out", str(tmp_path / "out.png"), "--seed", "4", "--resolution", "64"]
    attached = ["--attach", f"image={tmp_path / 'dog.png'}"]
    edit.main([*options, *attached, "--instruction", "a <image:0> circle in the snow"])
    assert "response (given): a circle in the snow" in capsys.readouterr().out
    for more, text, said in (
        ([], "a circle", r"--attach image=FILE: SubjectEditor needs an attached image, and none is given"),
        (attached, "a circle", r"subject 0: its picture stands for no word of the text"),
        (attached, "a <image:1> circle", r"--instruction: <image:1> names no attached image"),
        (attached, "red " * 80 + "<image:0> circle", r"its word 'circle' is token 81 of the text"),
    ):
        with pytest.raises(SystemExit, match=said):
            edit.main([*options, *more, "--instruction", text])


def test_a_description_binds_its_own_words(run: Path, tmp_path: Path) -> None:
    picture().save(tmp_path / "dog.png")
    attached = ["--attach", f"image={tmp_path / 'dog.png'}", "--resolution", "64", "--checkpoint", str(run)]
    goal, instruction = "in the middle a <image:0> circle", "<image:0> circle"
    edit.main([*attached, "--instruction", instruction, "--response", goal, "--out", str(tmp_path / "described.png")])
    edit.main([*attached, "--instruction", goal, "--out", str(tmp_path / "said.png")])
    assert (tmp_path / "described.png").read_bytes() == (tmp_path / "said.png").read_bytes()
    with pytest.raises(SystemExit, match="expected <image:1> to be an attachment to show, found no such attachment"):
        wrong = ["--response", "a <image:1> circle", "--out", str(tmp_path / "wrong.png")]
        edit.main([*attached, "--instruction", instruction, *wrong])


def test_an_exported_folder_sees_attached_pictures_as_its_run_did(run: Path, tmp_path: Path) -> None:
    picture(side=50).save(tmp_path / "dog.png")
    folder = export_run(run, tmp_path / "exported")
    opened = open_checkpoint(folder)
    assert opened.data == {"attachment_size": 32}  # of the image encoder
    assert len(UMMDiffusionPipeline.from_pretrained(folder)(TEXT, {"circle": picture()})) == 1
    attached = ["--attach", f"image={tmp_path / 'dog.png'}", "--instruction", "a <image:0> circle"]
    edit.main(["--checkpoint", str(folder), *attached, "--out", str(tmp_path / "out.png")])
    with Image.open(tmp_path / "out.png") as drawn:
        assert drawn.size == (64, 64)


def test_the_editor_moves_and_draws_without_gradients(pipe: UMMDiffusionPipeline) -> None:
    assert not torch.is_inference_mode_enabled() and pipe.editor.response_source == "given"
    pipe(TEXT, {"circle": picture()})
    assert all(parameter.grad is None for parameter in pipe.editor.pseudo_word.parameters())
