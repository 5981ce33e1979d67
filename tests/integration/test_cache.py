"""`python -m mmig.run.cache`, and train.py on what it wrote: the same run, on other ranks too, or refused."""

import shutil
from pathlib import Path

import pytest
import yaml

from datamodules.shards import write_shards
from datamodules.tinyworld.sample import make_sample
from mmig.run.cache import main as cache
from mmig.run.cli import main as train
from tests.integration.losses import logged
from tests.integration.workspace import Workspace
from tests.tiny_fixtures import build_vae

NUM_STEPS, EVERY = 6, 3


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """With features of the training split, one sample of which has a picture that cannot be read."""
    made = Workspace(tmp_path_factory.mktemp("cache"))
    shutil.rmtree(made.folder / "train")
    samples = [make_sample(0, "train", index, photographs=False) for index in range(32)]
    samples[3]["target"] = b"\x89PNG cut off"
    write_shards(samples, made.folder / "train", samples_per_shard=16)
    config = made.config(max_steps=NUM_STEPS, enable_progress_bar=False)
    config["data"]["init_args"]["max_bad_fraction"] = 0.5
    config["checkpoint"] = {"every_n_steps": EVERY}
    (made.folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    cache(["--config", str(made.folder / "config.yaml"), "--out", str(made.folder / "features"), "--device", "cpu"])
    return made


def options(workspace: Workspace, name: str, *more: str, cached: bool = True) -> list[str]:
    folder = workspace.folder
    features = ["--data.init_args.features", str(folder / "features")] if cached else []
    run = ["--name", name, "--runs", str(folder / "runs")]
    return ["fit", "--config", str(folder / "config.yaml"), *run, *features, *more]


def fit(workspace: Workspace, name: str, *more: str, cached: bool = True) -> str:
    """Run `train.py fit` in this process; returns its last word, "" where it succeeded."""
    try:
        train(options(workspace, name, *more, cached=cached))
    except SystemExit as stop:
        return str(stop.code)
    return ""


@pytest.fixture(scope="module")
def plain(workspace: Workspace) -> dict[int, float]:
    """Losses of the run without features."""
    assert fit(workspace, "plain", cached=False) == ""
    return logged(workspace.folder / "runs" / "plain")


def test_a_run_with_features_has_the_losses_of_one_without(workspace: Workspace, plain: dict[int, float]) -> None:
    assert fit(workspace, "cached") == ""
    assert logged(workspace.folder / "runs" / "cached") == pytest.approx(plain, rel=1e-3)


def test_two_ranks_with_features_continue_a_run_that_began_without(
    workspace: Workspace, plain: dict[int, float]
) -> None:
    runs = workspace.folder / "runs"
    shutil.copytree(runs / "plain", runs / "resumed")
    (runs / "resumed" / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt").unlink()
    ranks = ("--trainer.devices", "2", "--trainer.strategy", "ddp")
    result = workspace.run("train.py", *options(workspace, "resumed", *ranks))
    assert result.returncode == 0, result.stderr
    assert (runs / "resumed" / "checkpoints" / f"step-{NUM_STEPS:08d}.ckpt").exists()
    assert logged(runs / "resumed") == pytest.approx(plain, rel=1e-3)


def test_features_of_another_autoencoder_are_refused_in_one_line(workspace: Workspace, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(workspace.folder / "stable-diffusion", other)
    build_vae(other / "vae", seed=9)
    word = fit(workspace, "other", "--model.init_args.backbones.diffusion", str(other))
    assert word.startswith("error: cached feature 'latents.") and "\n" not in word
    assert "is stale: computed with vae " in word and ", this run has " in word


def test_features_of_images_cut_otherwise_are_refused_in_one_line(workspace: Workspace) -> None:
    word = fit(workspace, "smaller", "--data.init_args.resolution", "32")
    assert word.startswith("error: cached features are of other images: '64x64 px, centre crop'"), word
    assert "'32x32 px, centre crop'" in word and "\n" not in word


def test_another_prompt_is_refused_in_one_line(workspace: Workspace) -> None:
    word = fit(workspace, "prompt", "--model.init_args.multimodal.prompt_template", "Q: {instruction} A:")
    assert word.startswith("error: cached feature 'llm.states' is stale: computed with prompt_template"), word
    assert "this run has 'Q: {instruction} A:'" in word and "\n" not in word


def test_no_split_to_write_is_one_clear_line(workspace: Workspace) -> None:
    with pytest.raises(SystemExit) as stop:
        cache(["--config", str(workspace.folder / "config.yaml"), "--out", "nowhere", "--splits", "[]"])
    assert stop.value.code == "error: --splits: expected at least one of train, val and test, found none"


def test_data_that_are_cut_anew_each_time_are_refused_in_one_line(workspace: Workspace) -> None:
    out = str(workspace.folder / "drawn")
    with pytest.raises(SystemExit) as stop:
        cache(["--config", str(workspace.folder / "config.yaml"), "--out", out, "--data.init_args.random_crop", "true"])
    assert "each epoch cuts the images anew" in str(stop.value.code) and "\n" not in str(stop.value.code)
