"""The second way: the mapper's sizes and groups, eq 8, and codes that do not fit."""

from pathlib import Path

import pytest
import torch

from mmig.backbones.parts import BackboneError
from mmig.methods.styleclip.errors import StyleClipError
from mmig.methods.styleclip.inversion import Inverter
from mmig.methods.styleclip.mapper import GroupMapper, LatentMapper
from mmig.methods.styleclip.mapper_editor import MapperEditor, MapperSampling, check_fits, open_editor, open_editors
from mmig.methods.styleclip.mapper_module import MapperModule
from mmig.run.precision import running
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.styleclip.support import CLIP, drawn_batch, save_generator, small_generator


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_generator(tmp_path_factory.mktemp("generator"))


def module(folder: Path, **settings: object) -> MapperModule:
    torch.manual_seed(0)
    given = {"prompt": "a red circle", "generator": str(folder), "clip": CLIP, "bounds": (2, 4)}
    return MapperModule(OptimizerConfig(), **(given | settings))


def test_the_published_mapper_has_its_number_of_parameters() -> None:
    with torch.device("meta"):
        assert sum(weight.numel() for weight in LatentMapper().parameters()) == 3_151_872


def test_a_group_that_does_not_move_gives_zeros() -> None:
    step = LatentMapper(18, 8, ["coarse", "fine"])(torch.randn(2, 18, 8))
    assert (step[:, 4:8] == 0).all()
    assert (step[:, :4] != 0).any() and (step[:, 8:] != 0).any()


def test_a_group_sees_its_own_codes_alone() -> None:
    mapper, codes = LatentMapper(18, 8), torch.randn(1, 18, 8)
    other = codes.clone()
    other[:, 4:8] += 1
    moved = (mapper(codes) != mapper(other)).any(2)[0]
    assert moved.nonzero().flatten().tolist() == [4, 5, 6, 7]


@pytest.mark.parametrize(("norm_dim", "together"), [(1, True), (2, False)])
def test_codes_of_a_group_are_normalised_together_or_each_by_itself(norm_dim: int, together: bool) -> None:
    mapper, codes = GroupMapper(8, 2, norm_dim), torch.randn(1, 4, 8)
    other = codes.clone()
    other[:, 0] *= 3
    assert torch.equal(mapper(codes)[:, 1:], mapper(other)[:, 1:]) is not together


def test_losses_are_those_of_eq_8(folder: Path) -> None:
    made = module(folder)
    assert made.loss_weights == {"clip": 1.0, "l2": 0.8}
    terms = made.losses({}, Draws(0, range(3)))
    codes = made.codes(Draws(0, range(3)))
    step = 0.1 * made.mapper(codes)
    torch.testing.assert_close(terms["l2"].values, step.square().flatten(1).mean(1))
    views = made.clip.encode_images(made.generator(codes + step))
    expected = 1 - views @ made.clip.encode_texts(["a red circle"])[0]
    torch.testing.assert_close(terms["clip"].values, expected, atol=1e-5, rtol=1e-5)


def test_only_the_mapper_trains_and_is_stored(folder: Path) -> None:
    made = module(folder)
    assert {name.split(".")[0] for name, weight in made.named_parameters() if weight.requires_grad} == {"mapper"}
    assert {name.split(".")[0] for name in made.stored_names()} == {"mapper"}
    sum(term.values.sum() for term in made.losses({}, Draws(0, range(2))).values()).backward()
    assert all(weight.grad is not None for weight in made.mapper.parameters())


def test_step_size_zero_draws_the_inverted_picture() -> None:
    generator = small_generator()
    editor = MapperEditor(
        Inverter(generator), LatentMapper(6, 16, bounds=(2, 4)), "a text", MapperSampling(2, None, step_size=0.0)
    )
    batch = drawn_batch(generator)
    output = editor(batch, 0)
    error = (output.images - batch["source"]).square().mean((1, 2, 3))
    assert error.tolist() == pytest.approx(output.extras["inversion_error"], rel=1e-4)
    assert output.texts == ["a text", "a text"]


def exported(folder: Path, prompt: str, out: Path) -> str:
    made = module(folder, prompt=prompt)
    torch.manual_seed(len(prompt))
    for weight in made.mapper.parameters():
        torch.nn.init.normal_(weight)
    made.export(out, {})
    return str(out)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_each_picture_is_edited_by_the_mapper_of_its_prompt(precision: str, folder: Path, tmp_path: Path) -> None:
    prompts = ["a red circle", "a square"]
    mappers = {prompt: exported(folder, prompt, tmp_path / str(number)) for number, prompt in enumerate(prompts)}
    sampling = MapperSampling(2, None, step_size=1.0)
    batch = drawn_batch(small_generator(), 3, instruction=["a square", "a red circle", "a square"])
    with running(torch.device("cpu"), precision):
        output = open_editors(mappers, sampling=sampling)(batch, 0)
        alone = {prompt: open_editor(path, prompt, sampling=sampling)(batch, 0) for prompt, path in mappers.items()}
    assert output.texts == batch["instruction"]
    for row, prompt in enumerate(batch["instruction"]):
        torch.testing.assert_close(output.images[row], alone[prompt].images[row])
    assert not torch.allclose(*(found.images for found in alone.values()))


def test_prompts_without_a_mapper_and_mappers_of_two_generators_are_one_line(folder: Path, tmp_path: Path) -> None:
    own = exported(folder, "a square", tmp_path / "own")
    with pytest.raises(StyleClipError, match=r"sample 'k0': no mapper was trained for 'a ring'; .* one of 'a square'"):
        open_editors({"a square": own})(drawn_batch(small_generator(), 1, instruction=["a ring"]), 0)
    other = exported(save_generator(tmp_path / "other", seed=1), "a ring", tmp_path / "others")
    with pytest.raises(BackboneError, match=r"others: expected a mapper of the same generator as .*own"):
        open_editors({"a square": own, "a ring": other})
    with pytest.raises(ValueError, match="mappers: expected at least one prompt"):
        open_editors({})


def test_codes_of_a_file_are_learned_from(folder: Path, tmp_path: Path) -> None:
    latents = torch.randn(3, 6, 16)
    torch.save(latents, tmp_path / "train.pt")
    made = module(folder, latents=str(tmp_path / "train.pt"))
    found = made.codes(Draws(0, range(8)))
    assert all(any(torch.equal(row, one) for one in latents) for row in found)
    torch.save(torch.randn(3, 18, 512), tmp_path / "faces.pt")
    with pytest.raises(BackboneError, match=r"latents: .*faces.pt: expected codes \[N,6,16\].*\[3, 18, 512\]"):
        module(folder, latents=str(tmp_path / "faces.pt"))


def test_bad_settings_are_refused_in_one_line(folder: Path) -> None:
    with pytest.raises(StyleClipError, match="prompt: expected at most the 77 tokens"):
        module(folder, prompt="a red circle " * 40)
    with pytest.raises(ValueError, match=r"loss_weights.identity: expected the file of a face network"):
        module(folder, loss_weights={"clip": 1.0, "identity": 0.1})
    with pytest.raises(ValueError, match=r"mapper.groups: expected some of coarse, medium, fine, each with codes"):
        module(folder, bounds=(4, 8))
    with torch.device("meta"):
        published = LatentMapper()
    with pytest.raises(BackboneError, match=r"expected a mapper of 6 codes of 16.* found one of 18 of 512"):
        check_fits(published, small_generator(), "folder")
