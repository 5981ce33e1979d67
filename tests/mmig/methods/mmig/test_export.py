"""From a run to a folder in diffusers' layout with its card; edit.py on the same run."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, AutoTokenizer

import edit
from mmig import __version__
from mmig.checkpoints.checkpoint import CheckpointError, init_weights, load_module, read_start
from mmig.checkpoints.model_card import UNKNOWN, licence_of
from mmig.methods.mmig.pipeline import MMIGPipeline
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.run import export
from mmig.run.export import ExportError, export_run
from tests.mmig.batches import edit_batch
from tests.tiny_fixtures import build_all

TRAINED = "mmig.mmsm.mid_block.feature_decoder.2.bias"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of stage 5 whose MMSM and adapters are not zero, with averaged weights that differ."""
    folders = build_all(tmp_path_factory.mktemp("tiny"))
    run = tmp_path_factory.mktemp("runs") / "five"
    (run / "checkpoints").mkdir(parents=True)
    (run / "evaluation").mkdir()
    backbones = {
        "diffusion": str(folders.stable_diffusion),
        "llm": str(folders.llama),
        "unet": str(folders.instruct_pix2pix),
        "vision": str(folders.clip_vision),
        "captioner": str(folders.blip2),
    }
    arguments = {
        "backbones": backbones,
        "optimizer": {"lr": 1e-3},
        "mmsm": {"dim": 16, "heads": 2},
        "multimodal": {"max_response_tokens": 6},
        "source_conditioning": "concat",
        "sampling": {"num_steps": 2, "guidance_scale": 3.0, "response": "generated"},
        "profile": "practical",
    }
    model = {"class_path": "mmig.methods.mmig.stages.paper.Stage5", "init_args": arguments}
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"train": str(run / "d"), "resolution": 64}}
    (run / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "ema": {"decay": 0.99}}))
    (run / "evaluation" / "metrics.json").write_text(json.dumps(REPORT))
    torch.manual_seed(0)
    stage = stage_of(model)
    state = {name: stage.state_dict()[name] for name in stage.stored_names()}
    for name, value in state.items():
        if "mmsm" in name or "adapters" in name:
            value.normal_(std=0.1)
    averaged = {TRAINED: state[TRAINED] + 1}
    checkpoint = {
        "state_dict": state,
        "ema": {"decay": 0.99, "updates": 3, "weights": averaged},
        "version": __version__,
        "step": 1234,
        "backbones": stage.describe_backbones(),
    }
    torch.save(checkpoint, run / "checkpoints" / "step-00001234.ckpt")
    return run


REPORT = {
    "checkpoint": "runs/five/checkpoints/step-00001234.ckpt",
    "weights": "ema",
    "split": "test",
    "num_samples": 128,
    "seeds": [0],
    "response_source": "generated",
    "metrics": {
        "success": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 128},
        "not_counted": {"value": None, "low": None, "high": None, "n": 0},
    },
}


def stage_of(model: dict) -> MMIGStage:
    from mmig.checkpoints.checkpoint import build_module

    return build_module({"model": model})


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_run(run, tmp_path_factory.mktemp("exported") / "five")


def test_the_folder_gives_what_the_run_gives_to_the_bit(run: Path, exported: Path) -> None:
    batch = edit_batch(2)
    expected = load_module(run).make_pipeline()(batch, torch.Generator().manual_seed(3))
    pipeline = MMIGPipeline.from_pretrained(exported)
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(
        batch["source"], batch["instruction"], output_type="pt", generator=torch.Generator().manual_seed(3)
    )
    assert torch.equal(found.images, expected.images)
    assert found.descriptions == expected.texts and found.captions == expected.extras["captions"]
    assert pipeline.editing_resolution == 64


def test_the_averaged_weights_are_taken_unless_others_are_asked_for(run: Path, exported: Path, tmp_path: Path) -> None:
    trained = export_run(run, tmp_path / "trained", ema=False)
    weights = torch.load(run / "checkpoints" / "step-00001234.ckpt", weights_only=True)["state_dict"]
    for folder, expected in ((exported, weights[TRAINED] + 1), (trained, weights[TRAINED])):
        found = MMIGPipeline.from_pretrained(folder, captioner=None).connectors.mmsm["mid_block"]
        assert torch.equal(found.feature_decoder[2].bias, expected)
    assert "| weights | as trained |" in (trained / "README.md").read_text()


def test_the_layout_is_that_of_diffusers(exported: Path) -> None:
    parts = {path.name for path in exported.iterdir()}
    models = {"unet", "vae", "text_encoder", "llm", "vision", "captioner", "connectors"}
    assert parts == models | {
        *(
            "tokenizer",
            "llm_tokenizer",
            "captioner_processor",
            "scheduler",
            "model_index.json",
            "README.md",
            "editor.yaml",
        )
    }
    assert all(list((exported / model).glob("*.safetensors")) for model in models)
    assert not [path for path in exported.rglob("*") if path.suffix in (".bin", ".ckpt", ".pt")]


def test_no_path_of_this_machine_is_left(run: Path, exported: Path) -> None:
    texts = [path for path in exported.rglob("*") if path.suffix in (".json", ".md", ".txt")]
    here = str(run.parent.parent)  # where pytest keeps its folders
    assert len(texts) > 10
    assert [path.name for path in texts if here in path.read_text(encoding="utf-8")] == []


def test_the_card_says_what_it_is(exported: Path) -> None:
    card = (exported / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(card.split("---")[1])
    assert (metadata["library_name"], metadata["license"]) == ("diffusers", "other")
    for line in (
        'pipe = MMIGPipeline.from_pretrained("five")',
        "| method | mmig.methods.mmig.stages.paper.Stage5 |",
        "| steps | 1,234 |",
        "| weights | averaged (EMA) |",
        "| data: train | d |",
        "| success | 0.5000 | [0.4000, 0.6000] | 128 |",
        f"| llm | llama | {UNKNOWN} |",
    ):
        assert line in card
    losses = next(line for line in card.splitlines() if line.startswith("| losses and their weights | "))
    terms = set(losses.removesuffix(" |").rpartition("| ")[2].split(", "))
    assert terms == {"sdm 1", "as 0.001", "ar 0.001", "fg 1", "bg 1", "mmsm 1", "mmt 1", "blip2 1"}
    assert "not_counted" not in card


def test_the_card_shows_the_report_that_is_given(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "metrics.json"
    other.write_text(json.dumps(REPORT | {"num_samples": 77}))
    export.main(["--checkpoint", str(run), "--out", str(tmp_path / "out"), "--report", str(other)])
    assert "77 samples" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ExportError, match=r"--report .*none\.json: not readable .*No such file"):
        export_run(run, tmp_path / "second", report=tmp_path / "none.json")
    assert not (tmp_path / "second").exists()


def test_a_new_run_starts_from_the_folder(run: Path, exported: Path) -> None:
    model = yaml.safe_load((run / "config.yaml").read_text())["model"]
    places = {"diffusion": "", "unet": "", "llm": "llm", "vision": "vision", "captioner": "captioner"}
    own = {name: str(exported / place) for name, place in places.items()}
    stage = stage_of({**model, "init_args": {**model["init_args"], "backbones": own}})
    assert init_weights(stage, read_start(stage, exported)) == []
    started, trained = stage.mmig, load_module(run).mmig
    parts = ("unet", "vae", "text_encoder", "mllm.llm", "mllm.vision", "captioner.model", "mmsm", "mllm.adapters")
    for part in parts:
        expected = trained.get_submodule(part).state_dict()
        found = started.get_submodule(part).state_dict()
        assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)
    text = "put a red hat on the circle"
    assert started.mllm.tokenizer(text).input_ids == trained.mllm.tokenizer(text).input_ids


def test_a_run_with_other_backbones_than_the_folder_has_is_refused(run: Path, exported: Path, tmp_path: Path) -> None:
    stage = load_module(run)  # with the backbones that it was trained from
    with pytest.raises(ValueError, match=rf"backbone \w+: the checkpoint was trained on {exported}.* the config names"):
        init_weights(stage, read_start(stage, exported))
    shutil.copytree(exported / "connectors", tmp_path / "cut" / "connectors")
    (tmp_path / "cut" / "connectors" / "diffusion_pytorch_model.safetensors").write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"cannot read .*connectors: .*; export the run again"):
        read_start(stage, tmp_path / "cut")


def test_transformers_opens_language_model_and_captioner_by_themselves(run: Path, exported: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(exported / "llm")
    ids = tokenizer("put a red hat on the circle", return_tensors="pt").input_ids
    trained = load_module(run).mmig
    assert torch.equal(AutoModelForCausalLM.from_pretrained(exported / "llm")(ids).logits, trained.mllm.llm(ids).logits)
    processor = AutoProcessor.from_pretrained(exported / "captioner")
    read = processor(images=Image.linear_gradient("L").convert("RGB"), text="a photo", return_tensors="pt")
    expected = trained.captioner.processor(
        images=Image.linear_gradient("L").convert("RGB"), text="a photo", return_tensors="pt"
    )
    assert all(torch.equal(read[name], expected[name]) for name in expected)


def test_one_file_of_weights_gives_the_same_folder(run: Path, exported: Path, tmp_path: Path) -> None:
    """Run -> safetensors, alone -> diffusers folder."""
    export.main(["--checkpoint", str(run), "--out", str(tmp_path / "five.safetensors")])
    folder = export_run(tmp_path / "five.safetensors", tmp_path / "out" / "five")
    files = sorted(path.relative_to(exported) for path in exported.rglob("*.safetensors"))
    assert files and all((folder / path).read_bytes() == (exported / path).read_bytes() for path in files)
    assert "| steps | 1,234 |" in (folder / "README.md").read_text(encoding="utf-8")


def test_nothing_is_overwritten(run: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(ExportError, match=r"there: exists already; nothing is overwritten"):
        export_run(run, tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_failed_export_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> str:
        raise OSError("disk full")

    monkeypatch.setattr(export, "model_card", fail)
    with pytest.raises(SystemExit, match="disk full"):
        export.main(["--checkpoint", str(run), "--out", str(tmp_path / "out")])
    assert list(tmp_path.iterdir()) == []


def test_licences_come_from_the_table_or_from_the_folder(tmp_path: Path) -> None:
    assert licence_of("stable-diffusion-v1-5/stable-diffusion-v1-5@main") == "CreativeML Open RAIL-M"
    assert licence_of("someone/something") == UNKNOWN
    (tmp_path / "model").mkdir()
    assert licence_of(str(tmp_path / "model")) == UNKNOWN
    (tmp_path / "README.md").write_text("# Models\n\nSmall. Licence: that of the repository.\n")
    assert licence_of(str(tmp_path / "model")) == "that of the repository"
    (tmp_path / "model" / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert licence_of(str(tmp_path / "model")) == "apache-2.0"


def test_edit_shows_the_attention_and_prints_the_caption(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.linear_gradient("L").save(tmp_path / "in.png")
    paths = {"--image": tmp_path / "in.png", "--out": tmp_path / "out.png", "--show-attention": tmp_path / "map.png"}
    given = [word for name, path in paths.items() for word in (name, str(path))]
    edit.main(["--checkpoint", str(run), *given, "--instruction", "x", "--response", "a red circle and a square"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "response (given): a red circle and a square"
    assert lines[2].startswith("caption of the new image:") and lines[3] == f"attention: {tmp_path / 'map.png'}"
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.width == 2 * 22 + 4 * 240 + 3 * 16  # source, edited, circle, square
