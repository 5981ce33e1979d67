"""InstructPix2Pix in SDXL's form: two text encoders, a pooled vector and sizes, as diffusers' pipeline has them."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import StableDiffusionXLInstructPix2PixPipeline

from mmig.backbones.parts import BackboneError
from mmig.checkpoints.checkpoint import load_module
from mmig.diffusion.fresh import UNetSize
from mmig.diffusion.sdxl import SIZE_WIDTH, time_ids
from mmig.evaluation.opening import open_checkpoint, open_config
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, InstructPix2PixPipeline, open_editor
from mmig.run.export import export_run
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.batches import edit_batch
from tests.mmig.methods.instruct_pix2pix.support import SAMPLING, published
from tests.saved_run import save_run
from tests.terms import values_of
from tests.tiny_fixtures import build_stable_diffusion
from tests.tiny_sdxl import CONTEXT, POOLED, build_sdxl

ROOT = Path(__file__).resolve().parents[4]
METHOD = "mmig.methods.instruct_pix2pix.module.InstructPix2PixModule"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(build_sdxl(tmp_path_factory.mktemp("tiny") / "sdxl"))


def module(folder: str, **settings: Any) -> InstructPix2PixModule:
    torch.manual_seed(0)
    own = {"unet": folder, **settings}
    return InstructPix2PixModule(OptimizerConfig(), {"sdm": 1.0}, folder, **own)


@pytest.fixture(scope="module")
def exported(folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run and its export; every parameter counts in its edits."""
    root = tmp_path_factory.mktemp("runs")
    arguments = {"optimizer": {"lr": 1e-3}, "loss_weights": {"sdm": 1.0}, "backbone": folder, "unet": folder}
    data = {"class_path": "datamodules.shard_data.ShardData", "init_args": {"train": str(root / "shards")}}
    run = save_run(root / "edits", METHOD, arguments | {"sampling": SAMPLING}, data)
    return run, export_run(run, root / "exported")


@pytest.mark.parametrize("zero_null", [False, True])
def test_diffusers_opens_it_and_gives_our_edits(exported: tuple[Path, Path], zero_null: bool) -> None:
    """With the empty text for no text, as in our training, and with zeros, as in the released one."""
    theirs = StableDiffusionXLInstructPix2PixPipeline.from_pretrained(exported[1])
    assert theirs.config.force_zeros_for_empty_prompt is False
    theirs.register_to_config(force_zeros_for_empty_prompt=zero_null)
    source, text = edit_batch(1)["source"], "make it red"
    ours = open_editor(str(exported[1]), sampling=EditSampling(**SAMPLING), zero_null=zero_null)
    found = ours.edit(source, [text], [torch.Generator().manual_seed(7)])
    torch.testing.assert_close(found / 2 + 0.5, published(theirs, source / 2 + 0.5, text), atol=1e-4, rtol=1e-4)
    other = open_editor(str(exported[1]), sampling=EditSampling(**SAMPLING), zero_null=not zero_null)
    assert (other.edit(source, [text], [torch.Generator().manual_seed(7)]) - found).abs().max() > 1e-3


def test_the_export_edits_as_the_run_does_to_the_bit(exported: tuple[Path, Path]) -> None:
    batch = edit_batch(2)
    edits = [open_checkpoint(path).editor(batch, torch.Generator().manual_seed(3)).images for path in exported]
    assert torch.equal(*edits)
    assert load_module(exported[0]).make_pipeline().zero_null is False
    assert open_editor(str(exported[1])).zero_null is True  # a folder that does not say it is read as the released one


def test_the_released_ones_configuration_opens_such_a_folder(exported: tuple[Path, Path], tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs/editors/instruct_pix2pix_sdxl.yaml").read_text(encoding="utf-8"))
    arguments = config["editor"]["init_args"]
    assert arguments["path"] == "diffusers/sdxl-instructpix2pix-768"
    arguments["path"] = str(exported[1])
    (tmp_path / "editor.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    editor = open_config(tmp_path / "editor.yaml").editor
    assert isinstance(editor, InstructPix2PixPipeline)
    assert (editor.zero_null, editor.sampling.num_steps, editor.sampling.guidance_scale) == (True, 30, 3.0)


def test_the_card_names_the_class_that_opens_it(exported: tuple[Path, Path]) -> None:
    card = (exported[1] / "README.md").read_text(encoding="utf-8")
    assert 'StableDiffusionXLInstructPix2PixPipeline.from_pretrained("exported")' in card


def test_the_loss_is_that_of_the_denoiser_told_both_texts_and_the_sizes(folder: str) -> None:
    """All samples keep text and source; vector and sizes go through the same layer as in diffusers."""
    trained, batch = module(folder, drop=0.0), edit_batch(2)
    told: dict[str, Any] = {}
    trained.unet.register_forward_pre_hook(lambda _module, _args, given: told.update(given), with_kwargs=True)
    values_of(trained, batch, Draws(0, [0, 1]))
    first, second = trained.text_encoder, trained.text_encoder_2
    ids = trained.tokenizer(batch["instruction"], padding="max_length", return_tensors="pt").input_ids
    one, two = (model(ids, output_hidden_states=True) for model in (first, second))
    expected = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], dim=-1)
    torch.testing.assert_close(told["encoder_hidden_states"], expected)
    torch.testing.assert_close(told["added_cond_kwargs"]["text_embeds"], two.text_embeds)
    assert torch.equal(told["added_cond_kwargs"]["time_ids"], time_ids((64, 64), 2))


def test_a_dropped_text_loses_its_vector_too(folder: str) -> None:
    trained, batch = module(folder, drop=0.25), edit_batch(8)
    fields, _ = trained._fields(batch, Draws(0, range(8)))
    assert 0 < fields.count("") < 8
    _, condition = trained._conditioned_latents(batch, Draws(0, range(8)))
    empty = trained.reader.read([""])
    for row, field in enumerate(fields):
        assert torch.allclose(condition.pooled[row], empty.pooled[0], atol=1e-6) == (field == "")
        assert torch.allclose(condition.tokens[row], empty.tokens[0], atol=1e-6) == (field == "")


def test_a_fresh_one_is_told_both_too(folder: str) -> None:
    size = UNetSize([16, 32], layers_per_block=1, attention_heads=2, norm_num_groups=8, sample_size=16)
    config = module(folder, unet=size).unet.config
    assert (config.cross_attention_dim, config.addition_embed_type) == (CONTEXT, "text_time")
    assert config.projection_class_embeddings_input_dim == POOLED + 6 * SIZE_WIDTH


def test_its_text_encoders_stay_frozen(folder: str) -> None:
    with pytest.raises(ValueError, match=r"^train_text_encoder: SDXL's two text encoders stay frozen; expected false$"):
        module(folder, train_text_encoder=True)
    assert not any(value.requires_grad for value in module(folder).text_encoder_2.parameters())


def test_parts_of_the_two_forms_do_not_fit_each_other(folder: str, tmp_path: Path) -> None:
    other = str(build_stable_diffusion(tmp_path / "stable-diffusion"))
    with pytest.raises(BackboneError, match=rf"cross_attention_dim 32 does not fit hidden_size {CONTEXT} of"):
        module(folder, unet=other)
    with pytest.raises(BackboneError, match=rf"cross_attention_dim {CONTEXT} does not fit hidden_size 32 of"):
        module(other, unet=folder)
