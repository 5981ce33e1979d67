"""bench/diffusers_recipe.py: both sides do the same work on the same data, and the line says what was measured."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from bench.diffusers_recipe import SHAPES, Shapes, configuration, encoded, line, main, samples
from bench.tools.clock import Pairs
from bench.tools.recipe import Drawn, Recipe, RecipeSettings, together
from datamodules.schema import Batch
from datamodules.shard_data import ShardData
from datamodules.shards import write_shards
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.terms import values_of

SIZE = 8


@pytest.fixture(scope="module")
def shapes() -> Shapes:
    return SHAPES["tiny"](Path())


@pytest.fixture(scope="module")
def recipe(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    settings = RecipeSettings(SIZE, shapes.resolution, 10, drop=0.2)
    pairs = [encoded(sample) for sample in samples()[: 2 * SIZE]]
    yield Recipe(shapes.unet, shapes.backbone, pairs, settings, tmp_path_factory.mktemp("logs"))
    AcceleratorState._reset_state(reset_partial_state=True)  # it is one for the whole process


@pytest.fixture(scope="module")
def method(shapes: Shapes) -> InstructPix2PixModule:
    return InstructPix2PixModule(
        OptimizerConfig(), {"sdm": 1.0}, str(shapes.backbone), str(shapes.unet), drop=0.2, seed=3
    )


@pytest.fixture(scope="module")
def batch(shapes: Shapes, tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Ours of the first samples, from shards."""
    folder = tmp_path_factory.mktemp("data") / "pairs"
    write_shards(samples()[:SIZE], folder)
    data = ShardData(str(folder), global_batch_size=SIZE, resolution=shapes.resolution)
    return next(iter(data.train_dataloader()))


def same_entries(recipe: Recipe, batch: Batch) -> dict[str, torch.Tensor]:
    """The recipe's batch of the same samples in the same order."""
    order = [[sample["key"] for sample in samples()].index(key) for key in batch["key"]]
    return together(recipe.loader.dataset.__getitems__(order))


def test_both_read_the_same_pixels_and_texts(recipe: Recipe, method: InstructPix2PixModule, batch: Batch) -> None:
    theirs = same_entries(recipe, batch)
    for field in ("source", "target"):
        torch.testing.assert_close(theirs[field], batch[field], atol=1e-6, rtol=0)
    ids = method.tokenizer(batch["instruction"], padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(theirs["ids"], ids)


def test_both_have_the_same_loss_on_the_same_draws(recipe: Recipe, method: InstructPix2PixModule, batch: Batch) -> None:
    draws = Draws(method.seed, batch["position"])
    uniform = draws.uniform("condition_drop")
    assert (uniform < 0.2).any() and ((uniform >= 0.4) & (uniform < 0.6)).any() and (uniform >= 0.6).any()
    ours = values_of(method, batch, draws)["sdm"].mean()
    shape = (4, 16, 16)
    drawn = Drawn(draws.normal("posterior", shape), draws.normal("noise", shape), method.timesteps(draws), uniform)
    theirs = recipe.loss(same_entries(recipe, batch), drawn)
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_a_step_of_the_recipe_moves_the_unet_alone_and_averages_it(recipe: Recipe) -> None:
    frozen = {name: value.clone() for name, value in recipe.vae.state_dict().items()}
    before = [parameter.detach().clone() for parameter in recipe.unet.parameters()]
    for _ in range(2):
        assert recipe.step() > 0
    after = list(recipe.unet.parameters())
    assert any(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert recipe.average.optimization_step == 2 and recipe.average.cur_decay_value == pytest.approx(2 / 11)
    assert all(torch.equal(value, frozen[name]) for name, value in recipe.vae.state_dict().items())


def test_our_run_has_the_recipes_settings(shapes: Shapes, tmp_path: Path) -> None:
    settings = RecipeSettings(16, 64, 5, lr=3e-5, weight_decay=0.02, drop=0.07)
    config = configuration(shapes, tmp_path, "32-true", settings)
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["optimizer"] == {"lr": 3e-5, "weight_decay": 0.02, "clip_norm": 1.0}
    assert (model["drop"], data["global_batch_size"], data["resolution"]) == (0.07, 16, 64)


def test_the_line_names_medians_and_load() -> None:
    times = Pairs(base=[(1.2, 1.1), (1.2, 1.1)], own=[(1.0, 1.0), (1.0, 1.0)])
    said = line("diffusers_recipe", times)
    assert said.startswith("diffusers_recipe ratio 1.200 (goal >= 1.1; the recipe 1200 ms, ours 1000 ms a step; ")
    assert "by processor time 1.100, 1100 and 1000 ms; 2 pairs, load " in said


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_line_is_printed(precision: str, capsys: pytest.CaptureFixture[str]) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    main(["--steps", "2", "--precision", precision])
    AcceleratorState._reset_state(reset_partial_state=True)
    assert [text.split()[:2] for text in capsys.readouterr().out.splitlines() if " ratio " in text] == [
        ["diffusers_recipe", "ratio"]
    ]
