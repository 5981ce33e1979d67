"""Editors without a run: from configurations, from exported folders, from files of weights."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmig.backbones.fetch import read_references
from mmig.checkpoints.checkpoint import load_module
from mmig.evaluation.editors import Identity
from mmig.evaluation.opening import EDITOR_FILE, Opened, OpeningError, open_checkpoint, open_config, open_named
from mmig.evaluation.settings import SettingsError
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, InstructPix2PixPipeline
from mmig.methods.latent_diffusion.pipeline import DrawSampling, TextToImagePipeline
from mmig.run.export import export_run, export_weights
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import sample_generators
from tests.mmig.batches import edit_batch
from tests.mmig.evaluation.support import NoisyCopy
from tests.tiny_fixtures import TinyBackbones, build_all

IP2P = "mmig.methods.instruct_pix2pix"
EDITORS = Path(__file__).resolve().parents[3] / "configs/editors"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> TinyBackbones:
    return build_all(tmp_path_factory.mktemp("tiny"))


def write(path: Path, **sections: Any) -> Path:
    path.write_text(yaml.safe_dump(sections))
    return path


def edited(opened: Opened) -> torch.Tensor:
    batch = edit_batch(2)
    with torch.no_grad():
        return opened.editor(batch, sample_generators(0, batch["key"])).images


def editing_folder(folders: TinyBackbones) -> dict[str, Any]:
    """Section of the editing UNet under the response."""
    arguments = {
        "path": str(folders.instruct_pix2pix),
        "backbone": str(folders.stable_diffusion),
        "sampling": {"num_steps": 2, "text": "response"},
    }
    return {"class_path": f"{IP2P}.pipeline.open_editor", "init_args": arguments}


class NoMaker:
    """Is no editor."""

    def __init__(self, number: int = 1) -> None:
        self.sampling, self.required_fields, self.response_source = number, (), "none"

    def __call__(self) -> None:
        """Do nothing."""


def make_copy(strength: float = 0.1) -> NoisyCopy:
    """A function that returns an editor."""
    return NoisyCopy(strength)


def test_an_editor_is_made_by_a_class_or_a_function(tmp_path: Path) -> None:
    own = "tests.mmig.evaluation"
    made = write(
        tmp_path / "a.yaml", editor={"class_path": f"{own}.test_opening.make_copy", "init_args": {"strength": 1}}
    )
    opened = open_config(made)
    assert isinstance(opened.editor, NoisyCopy) and opened.editor.strength == 1.0
    assert opened.facts["config"] == {"path": str(made), "editor": yaml.safe_load(made.read_text())["editor"]}
    plain = write(tmp_path / "b.yaml", editor={"class_path": "mmig.evaluation.editors.Identity"})
    assert isinstance(open_named(None, str(plain)).editor, Identity)


def test_a_module_without_a_run_edits_as_its_pretrained_parts_do(folders: TinyBackbones, tmp_path: Path) -> None:
    arguments = {
        "optimizer": {"lr": 1.0},
        "loss_weights": {"sdm": 1.0},
        "backbone": str(folders.stable_diffusion),
        "unet": str(folders.instruct_pix2pix),
        "text": "response",
        "sampling": {"num_steps": 2},
    }
    model = {"class_path": f"{IP2P}.module.InstructPix2PixModule", "init_args": arguments}
    data = {"class_path": "x", "init_args": {"resolution": 48}}
    module = open_config(write(tmp_path / "model.yaml", model=model, data=data, trainer={}))
    folder = open_config(write(tmp_path / "folder.yaml", editor=editing_folder(folders)))
    assert isinstance(folder.editor, InstructPix2PixPipeline) and folder.editor.sampling == EditSampling(
        2, text="response"
    )
    assert module.editor.required_fields == folder.editor.required_fields == ("source", "response")
    assert module.resolution == 48 and module.data == {"resolution": 48}
    folder.editor.scheduler = module.editor.scheduler  # a folder has one of its own
    torch.testing.assert_close(edited(module), edited(folder), atol=1e-5, rtol=1e-5)


def test_fresh_parts_are_the_same_every_time_and_no_draw_of_others_changes(
    folders: TinyBackbones, tmp_path: Path
) -> None:
    size = {"block_out_channels": [16, 32], "layers_per_block": 1, "attention_heads": 2, "norm_num_groups": 8}
    arguments = {
        "optimizer": {"lr": 1.0},
        "loss_weights": {"sdm": 1.0},
        "backbone": str(folders.stable_diffusion),
        "unet": {**size, "sample_size": 16},
    }
    model = {"class_path": "mmig.methods.latent_diffusion.text_to_image.TextToImageModule", "init_args": arguments}
    config = write(tmp_path / "model.yaml", model=model)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second = (open_config(config).editor.unet.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(torch.random.get_rng_state(), before)


IDENTITY, CEILING = "mmig.evaluation.editors.Identity", "mmig.evaluation.editors.AutoencoderCeiling"
OPEN_EDITOR, MANY = f"{IP2P}.pipeline.open_editor", {"path": "x", "sampling": {"num_steps": "many"}}


class OnlyTrains(TrainingModule):
    """Has no pipeline."""

    def __init__(self) -> None:
        super().__init__(OptimizerConfig(lr=1.0), {"nothing": 1.0})
        self.weight = torch.nn.Parameter(torch.ones(1))


def editor(class_path: str, **arguments: Any) -> dict[str, Any]:
    """A configuration of an editor."""
    return {"editor": {"class_path": class_path, "init_args": arguments}}


def test_the_parts_of_an_editor_go_to_its_device(folders: TinyBackbones, tmp_path: Path) -> None:
    ceiling = editor(CEILING, vae=str(folders.stable_diffusion))
    for sections in (ceiling, {"editor": editing_folder(folders)}):
        opened = open_config(write(tmp_path / "editor.yaml", **sections), "meta").editor
        modules = [part for part in vars(opened).values() if isinstance(part, torch.nn.Module)]
        assert modules and all(p.is_meta for part in modules for p in part.parameters())


CASES = [
    ({}, "expected one section `editor` or `model` with class_path and init_args"),
    (editor(IDENTITY) | {"model": {"class_path": "a.B"}}, r"found \['editor', 'model'\]"),
    ({"editor": {"init_args": {}}}, "expected one section `editor` or `model`"),
    (editor("mmig.evaluation.editors.Identical"), "editor: cannot load 'mmig.evaluation.editors.Identical'"),
    (editor("Identity"), "cannot load 'Identity'"),
    (editor("no.such.Editor"), "cannot load 'no.such.Editor'"),
    (editor(IDENTITY, vae="x"), "unknown argument 'vae'; it has no arguments"),
    (editor(CEILING, autoencoder="x"), "unknown argument 'autoencoder'; it has vae"),
    (editor(CEILING), 'editor: .*AutoencoderCeiling: .*"?vae'),
    (editor(CEILING, vae="no/folder"), "no/folder"),
    (editor(OPEN_EDITOR, **MANY), r"sampling.num_steps .*: Expected a <class 'int'>. Got value: many"),
    (editor("tests.mmig.evaluation.test_opening.NoMaker"), "gives a NoMaker, expected an editor"),
    (editor("pathlib.Path"), "expected an editor .*; it has not sampling, required_fields"),
    ({"model": {"class_path": "mmig.no.Module"}}, "model: .*mmig.no.Module"),
    (
        {"model": {"class_path": "tests.mmig.evaluation.test_opening.OnlyTrains"}},
        "OnlyTrains trains a part that edits no images",
    ),
]


@pytest.mark.parametrize(("sections", "message"), CASES)
def test_a_configuration_that_gives_no_editor_is_refused_in_one_line(
    sections: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        open_config(write(tmp_path / "bad.yaml", **sections))
    assert "\n" not in str(refused.value)


def test_a_configuration_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingsError, match=r"no.yaml: cannot be read"):
        open_config("no.yaml")


def test_an_editing_unet_does_not_draw_and_another_does_not_edit(folders: TinyBackbones, tmp_path: Path) -> None:
    editing, drawing = str(folders.instruct_pix2pix), str(folders.stable_diffusion)
    wrong = {"class_path": f"{IP2P}.pipeline.open_editor", "init_args": {"path": drawing}}
    with pytest.raises(ValueError, match="expected an editing UNet with 8 input channels, found 4"):
        open_config(write(tmp_path / "a.yaml", editor=wrong))
    path = tmp_path / "folder"
    path.mkdir()
    for part in ("vae", "text_encoder", "tokenizer"):
        (path / part).symlink_to(folders.stable_diffusion / part)
    for part in ("unet", "scheduler"):
        (path / part).symlink_to(Path(editing) / part)
    other = {"class_path": "mmig.methods.latent_diffusion.pipeline.open_editor", "init_args": {"path": str(path)}}
    with pytest.raises(ValueError, match="expected a text-to-image UNet with 4 input channels, found 8"):
        open_config(write(tmp_path / "b.yaml", editor=other))


def test_a_folder_that_says_what_opens_it_is_opened(folders: TinyBackbones, tmp_path: Path) -> None:
    folder = tmp_path / "exported"
    folder.mkdir()
    for part in ("vae", "unet", "text_encoder", "tokenizer", "scheduler"):
        (folder / part).symlink_to(folders.stable_diffusion / part)
    section = {
        "class_path": "mmig.methods.latent_diffusion.pipeline.open_editor",
        "init_args": {"sampling": {"num_steps": 3}},
    }
    write(folder / EDITOR_FILE, **section)
    opened = open_checkpoint(folder)
    assert isinstance(opened.editor, TextToImagePipeline) and opened.editor.sampling == DrawSampling(3)
    assert opened.facts == {"checkpoint": str(folder), "weights": "exported", "editor": section}
    with pytest.raises(OpeningError, match=r"--no-ema: .* is an exported folder, which holds one set of weights"):
        open_checkpoint(folder, ema=False)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"class_path": "os.system"}, "expected the class_path of a method's open_editor, found 'os.system'"),
        ({"class_path": "mmig.evaluation.editors.Identity"}, "expected the class_path of a method's open_editor"),
        ({"class_path": None}, "expected the class_path of a method's open_editor, found None"),
        ({"class_path": "open_editor"}, "cannot load"),
        ({"class_path": "tests.mmig.evaluation.borrowed_opener.open_editor"}, "is defined elsewhere"),
        ({"class_path": "mmig.methods.no_such.pipeline.open_editor"}, "cannot load .*; export the run again"),
        (
            {"class_path": "mmig.methods.latent_diffusion.pipeline.open_editor", "init_args": {"paths": "x"}},
            "unknown argument 'paths'; it has path, sampling",
        ),
    ],
)
def test_a_folder_names_nothing_but_methods(section: dict[str, Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / EDITOR_FILE, **section)
    with pytest.raises(OpeningError, match=message) as refused:
        open_checkpoint(tmp_path)
    assert "\n" not in str(refused.value)


def test_a_run_its_weights_and_its_folder_edit_alike(mmig_run: Path, tmp_path: Path) -> None:
    file = export_weights(mmig_run, tmp_path / "three.safetensors")
    folder = export_run(mmig_run, tmp_path / "three")
    write(folder / EDITOR_FILE, class_path="mmig.methods.mmig.editor.open_editor")
    run, weights, exported = (open_checkpoint(path) for path in (mmig_run, file, folder))
    assert torch.equal(edited(run), edited(weights)) and torch.equal(edited(run), edited(exported))
    assert exported.editor.sampling == run.editor.sampling == load_module(mmig_run).sampling
    assert run.resolution == weights.resolution == exported.resolution == 64
    idle = ("image_guidance_scale", "sees", "embedded_guidance")
    assert run.editor.idle_settings == exported.editor.idle_settings == idle


def test_only_a_run_has_an_average() -> None:
    with pytest.raises(OpeningError, match="--no-ema: only a run has an average of its weights"):
        open_named(None, "configs/editors/identity.yaml", ema=False)


def test_what_an_editor_opens_is_fetched_like_any_backbone() -> None:
    references = read_references([EDITORS / f"{name}.yaml" for name in ("tiny", "oracle_text", "vae_ceiling")])
    named = {(reference.path, part.name) for reference in references for part in reference.parts}
    shared = {"vae", "text_encoder", "tokenizer"}
    assert named == {
        *(("assets/tiny/instruct-pix2pix", part) for part in ("unet", "scheduler")),
        *(("assets/tiny/stable-diffusion", part) for part in ("unet", "scheduler", *shared)),
    }


SHIPPED = [at for at in sorted(EDITORS.glob("*.yaml")) if not re.search(": (runs|exports|diffusers)/", at.read_text())]
"""The others open what has to be trained or fetched first."""
NEEDS = {
    "identity": ("source",),
    "chance": ("source", "metadata"),
    "vae_ceiling": ("target",),
    "oracle_text": ("target_caption",),
    "tiny": ("source", "response"),
    "tiny_instruction": ("source", "instruction"),
    **dict.fromkeys(("img2img", "inversion"), ("source", "target_caption")),
    **dict.fromkeys(("dreambooth", "textual_inversion"), ("target_caption", "attachment_images")),
}
ROLES = {"identity": "floor", "chance": "floor", "vae_ceiling": "ceiling", "oracle_text": "ceiling"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_editor_configuration_of_shipped_parts_opens_and_edits(
    path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)
    opened, batch = open_config(path), edit_batch(1)
    assert opened.editor.required_fields == NEEDS[path.stem]
    assert opened.facts.get("role") == ROLES.get(path.stem)
    if hasattr(opened.editor.sampling, "num_steps"):
        assert opened.editor.sampling.num_steps >= 10
    elif path.stem != "chance":  # it reads scenes of the small world: tests/experiments/test_chance.py
        assert opened.editor(batch, sample_generators(0, batch["key"])).images.shape == batch["source"].shape


def test_a_role_that_no_page_knows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "editor.yaml"
    path.write_text("role: best\neditor: {class_path: mmig.evaluation.editors.Identity}\n")
    with pytest.raises(SettingsError, match="role: expected floor or ceiling, found 'best'"):
        open_config(path)
