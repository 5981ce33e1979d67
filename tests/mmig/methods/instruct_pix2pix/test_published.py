"""configs/instruct_pix2pix: the published recipe is the published one, the small world's differs in size alone."""

from pathlib import Path

from tests.test_configs import by_its_command

ROOT = Path(__file__).resolve().parents[4]
FOLDER = "configs/instruct_pix2pix"


def test_the_published_command_is_the_published_recipe() -> None:
    """Brooks et al. 2023, sections 3.2 and 4, and the released configuration: 32 samples a GPU, 8 GPUs, 4 times."""
    config = by_its_command(f"{FOLDER}/published.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert (model["drop"], model["text"], model["generation"]) == (0.05, "instruction", 0.0)
    assert (model["target_latents"], model["weighting"], model["edit_weight"]) == ("sample", "uniform", 1.0)
    assert (model["optimizer"]["lr"], model["optimizer"]["schedule"], model["optimizer"]["warmup_steps"]) == (
        1e-4,
        "constant",
        0,
    )
    assert (data["global_batch_size"], model["micro_batch_size"]) == (1024, 32)
    assert (data["resolution"], data["max_short_side"], data["random_crop"], data["flip"]) == (256, 288, True, True)
    assert (config["trainer"]["max_steps"], config["ema"]["decay"]) == (10_000, 0.9999)


def test_the_small_worlds_starts_from_four_channels_with_the_same_drops() -> None:
    config = by_its_command(f"{FOLDER}/tinyworld.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["unet"] == model["backbone"] == "assets/tiny/stable-diffusion"
    assert (model["drop"], model["target_latents"], model["loss_weights"]) == (0.05, "sample", {"sdm": 1.0})
    assert (data["level"], config["trainer"]["accelerator"]) == ("plain", "cpu")


def test_the_sdxl_form_is_the_released_one() -> None:
    """The card of diffusers/sdxl-instructpix2pix-768: 15,000 steps at a fixed rate of 5e-6, of 768 pixels."""
    config = by_its_command(f"{FOLDER}/published_sdxl.yaml")
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    assert model["backbone"] == model["unet"] == "stabilityai/stable-diffusion-xl-base-1.0"
    assert (model["optimizer"]["lr"], model["optimizer"]["schedule"], model["drop"]) == (5e-6, "constant", 0.05)
    assert (config["trainer"]["max_steps"], data["resolution"]) == (15_000, 768)
    assert (model["sampling"]["guidance_scale"], model["sampling"]["image_guidance_scale"]) == (3.0, 1.5)
