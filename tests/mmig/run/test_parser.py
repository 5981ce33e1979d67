"""Settings on the command line: nested ones, backbones as strings or mappings, null."""

from typing import Any

import pytest

from mmig.run.cache import CacheCLI

DATA = ["--config", "configs/data/demo.yaml", "--out", "out", "--name", "name"]


class Parsed(CacheCLI):
    """Parses, and builds nothing."""

    def instantiate_classes(self) -> None:
        """Nothing."""


def arguments(config: str, *options: str) -> Any:
    return Parsed(["--config", config, *DATA, *options]).config.model.init_args


@pytest.mark.parametrize("null", ["null", "~", "NULL"])
def test_null_on_the_command_line_is_null(null: str) -> None:
    found = arguments("configs/demo/stage2.yaml", "--model.init_args.backbones.unet", null).backbones
    assert found.unet is None
    assert found.diffusion == "assets/tiny/stable-diffusion"  # what stands beside it stays


def test_a_backbone_is_a_path_or_a_mapping() -> None:
    option = "--model.init_args.backbones.unet"
    assert arguments("configs/demo/stage2.yaml", option, "owner/unet").backbones.unet == "owner/unet"
    named = arguments("configs/demo/stage2.yaml", f"{option}.path", "owner/unet", f"{option}.part", "unet").backbones
    assert named.unet.as_dict() == {"path": "owner/unet", "part": "unet"}
    assert arguments("configs/demo/instruct_pix2pix.yaml", "--model.init_args.unet.path", "a/b").unet.path == "a/b"
    sizes = arguments("configs/demo/instruct_pix2pix.yaml", "--model.init_args.unet", "{block_out_channels: [32]}")
    assert sizes.unet.block_out_channels == [32]
