"""The editor of every method on the page: its inputs, an edit, the same edit by its command, and a stop in between."""

import shlex
import zipfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from PIL import Image

import edit
from mmig.app.asking import EditRequest
from mmig.app.controls import changed, controls_of
from mmig.app.examples import Examples, read_examples
from mmig.app.handlers import Handlers
from mmig.app.page import Page
from mmig.app.results import make_result
from mmig.app.systems import System, open_systems
from mmig.base.watching import Progress, Stopped, watching
from mmig.evaluation.overrides import with_sampling
from mmig.run.edit_parser import build_parser
from tests.mmig.app.conftest import CPU
from tests.mmig.methods.contract import Trial
from tests.mmig.methods.mmig.stages.support import seeing_backbones
from tests.mmig.methods.test_contract import cases
from tests.tiny_fixtures import TinyBackbones
from tests.toy_method.samples import write_tone

AUTOENCODERS = ("latent_diffusion-adversarial", "latent_diffusion-autoencoder", "latent_diffusion-decoder")
LOOPLESS = ("styleclip-directions", "toy", *AUTOENCODERS)
"""Beginnings of cases whose edit has no loop to stop."""
QUICK = ("instruct_pix2pix", "umm_diffusion", "instruct_any2pix")
"""Beginnings of cases of `make test`: a picture to edit, a picture attached, a sound attached."""
EDITING = sorted(name for name, case in cases().items() if case.edits)


def quick_first() -> list[object]:
    """Names of cases; one of each quick method is not marked slow."""
    quick = {next(name for name in EDITING if name.startswith(start)) for start in QUICK}
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in EDITING]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return seeing_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture(scope="module", params=quick_first())
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, backbones: TinyBackbones) -> Trial:
    """A case of a method with a run of a few steps."""
    trial = Trial.begin(cases()[request.param], tmp_path_factory.mktemp(request.param), backbones)
    trial.command("fit", "whole")
    return trial


@pytest.fixture(scope="module")
def opened(trial: Trial) -> System:
    return open_systems([str(trial.run("whole"))], CPU)[0]


def asked(trial: Trial, system: System, given: Path) -> EditRequest:
    """What the case asks of edit.py, as the page asks it, with its files in a folder."""
    given.mkdir()
    Image.new("RGB", (64, 64), "white").save(given / "picture.png")
    write_tone(given / "tone.wav")
    inputs = [option.format(folder=given) for option in trial.case.inputs]
    parsed = build_parser().parse_args(["--config", "x", "--instruction", "x", "--out", "y.png", *inputs])
    sampling = with_sampling(system.editor, [*trial.case.sampling, *parsed.sampling]).sampling
    controls = controls_of(system.editor)
    values = [getattr(sampling, control.name) for control in controls]
    attached = (option.split("=", 1) for option in parsed.attach)
    return EditRequest(
        trial.case.instruction,
        parsed.response or "",
        None if parsed.image is None else Path(parsed.image).name,
        tuple((kind, Path(path).name) for kind, path in attached),
        resolution=parsed.resolution,
        settings=changed(controls, values),
        attention=system.shows_attention,
    )


def test_its_page_has_what_it_takes(trial: Trial, opened: System, tmp_path: Path) -> None:
    page = Page(Handlers([opened], read_examples(), tmp_path))
    assert page.build() is not None
    inputs, needs = page.inputs, opened.needs
    assert inputs.picture.visible == needs.reads_picture
    assert inputs.attachments.visible == bool(needs.kinds)
    assert len(inputs.settings) == len(controls_of(opened.editor))
    if any("--attach" in option for option in trial.case.inputs):
        assert needs.kinds


def test_its_command_repeats_an_edit_bit_for_bit(
    trial: Trial, opened: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = asked(trial, opened, tmp_path / "given")
    result = make_result(opened, request, tmp_path / "given", tmp_path / "result", Examples([], None))
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(result.archive) as archive:
        archive.extractall()
    edit.main(shlex.split(result.command)[2:])
    assert Path("edited/again.png").read_bytes() == result.edited.read_bytes()


def test_it_stops_at_the_first_step_and_then_edits_as_if_nothing_had_been(
    trial: Trial, opened: System, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    def stop(_: Progress) -> None:
        raise Stopped

    wanted = asked(trial, opened, tmp_path / "given")
    edits = [tmp_path / name for name in ("before", "stopped", "after")]
    before = make_result(opened, wanted, tmp_path / "given", edits[0], Examples([], None))
    is_loopless = request.node.callspec.params["trial"].startswith(LOOPLESS)
    with watching(stop), nullcontext() if is_loopless else pytest.raises(Stopped):
        make_result(opened, wanted, tmp_path / "given", edits[1], Examples([], None))
    after = make_result(opened, wanted, tmp_path / "given", edits[2], Examples([], None))
    assert before.edited.read_bytes() == after.edited.read_bytes()
