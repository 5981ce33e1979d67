"""Write a trained tiny backbone into assets/tiny in the published folder layouts.

`python -m experiments.tiny_backbones.export PART RUN --out assets/tiny`; `--help` names the parts.

An autoencoder's latent scale is measured on the validation split of `--data`.
"""

import logging
from collections.abc import Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tiny_backbones.clip_export import (
    copy_tokenizer,
    export_clip,
    export_open_clip,
    preprocessor_config,
    write_weights,
)
from experiments.tiny_backbones.prompt import EXPRESSIVE_TEMPLATE, PROMPT_TEMPLATE
from mmig.base.commands import OptionParser
from mmig.base.files import write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from experiments.tiny_backbones.captioner import CaptionerModule
    from experiments.tiny_backbones.clip import ClipModule
    from experiments.tiny_backbones.imagebind import ImageBindModule
    from experiments.tiny_backbones.language import LanguageModule
    from experiments.tiny_backbones.llava import LlavaModule
    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
    from mmig.methods.styleclip.gan import StyleGANModule
    from mmig.training.module import TrainingModule

logger = logging.getLogger(__name__)
PARTS = ("clip", "clip-eval", "lm", "captioner", "llava", "imagebind", "vae", "unet", "gan")


class ExportError(ValueError):
    """The run trained something else than was asked for."""


def export_clip_run(module: "ClipModule", out: Path) -> list[Path]:
    """clip/, clip-vision/ and stable-diffusion/{text_encoder,tokenizer}/ below `out`."""
    tokenizer = Path(module.tokenizer.name_or_path)
    return export_clip(module.clip.state_dict(), module.size, tokenizer, out)


def export_clip_eval_run(module: "ClipModule", out: Path) -> list[Path]:
    """clip-eval/ below `out`, an open_clip folder that metrics use and no method is built on."""
    folder = out / "clip-eval"
    export_open_clip(module.clip.state_dict(), module.size, Path(module.tokenizer.name_or_path), folder)
    return [folder]


def export_language_run(module: "LanguageModule", out: Path) -> list[Path]:
    """llama/: weights, config, generation_config, tokenizer and the prompt formats."""
    folder = out / "llama"
    _write_model(module.language_model, folder)
    _copy_files(Path(module.tokenizer.name_or_path), folder)
    write_text(folder / "prompt_template.txt", PROMPT_TEMPLATE + "\n")
    write_text(folder / "expressive_template.txt", EXPRESSIVE_TEMPLATE + "\n")
    return [folder]


def export_captioner_run(module: "CaptionerModule", out: Path) -> list[Path]:
    """blip2/: weights, config, generation_config, tokenizer, preprocessor_config and processor_config."""
    folder, config = out / "blip2", module.captioner.config
    _write_model(module.captioner, folder)
    _copy_files(Path(module.tokenizer.name_or_path), folder)
    preprocessor = preprocessor_config(config.vision_config.image_size, "BlipImageProcessor")
    del preprocessor["do_center_crop"], preprocessor["crop_size"]
    write_json(folder / "preprocessor_config.json", preprocessor | {"processor_class": "Blip2Processor"})
    processor = {"num_query_tokens": config.num_query_tokens, "processor_class": "Blip2Processor"}
    write_json(folder / "processor_config.json", processor)
    return [folder]


def export_llava_run(module: "LlavaModule", out: Path) -> list[Path]:
    """llava/: weights, config, generation_config, tokenizer, image processor, processor and chat template."""
    from experiments.tiny_backbones.llava_model import llava_processor

    folder = out / "llava"
    # its own saving gives weights their published names, which are not those that they have in memory
    deepcopy(module.llava).half().save_pretrained(folder)
    _write_configs(module.llava, folder)
    llava_processor(module.size, module.tokenizer).save_pretrained(folder)
    return [folder]


def export_imagebind_run(module: "ImageBindModule", out: Path) -> list[Path]:
    """imagebind/: weights and config of the encoder, and its tokenizer."""
    folder = out / "imagebind"
    deepcopy(module.encoder).half().save_pretrained(folder)
    copy_tokenizer(Path(module.tokenizer.name_or_path), folder)
    return [folder]


def export_autoencoder_run(module: "AutoencoderModule", out: Path, data: Path | None) -> list[Path]:
    """stable-diffusion/vae/ below `out`, with a scale that is measured on these data."""
    from experiments.tiny_backbones.diffusion_export import export_autoencoder
    from mmig.evaluation.data import split_batches

    if data is None:
        raise ExportError("--data: expected a configuration, the latent scale of an autoencoder is measured on it")
    logger.info("scaling_factor %s", export_autoencoder(module, split_batches(data, "val"), out))
    return [out / "stable-diffusion" / "vae"]


def export_generator_run(module: "StyleGANModule", out: Path) -> list[Path]:
    """gan/generator/ below `out`, with the mean of its codes."""
    from experiments.tiny_backbones.diffusion_export import save_half

    module.generator.measure_average()
    save_half(module.generator, out / "gan" / "generator")
    return [out / "gan"]


def _write_model(model: "PreTrainedModel", folder: Path) -> None:
    """Configurations and half-precision model.safetensors without twice stored tied weights."""
    tied = set(model.all_tied_weights_keys)
    write_weights(
        folder / "model.safetensors", {name: value for name, value in model.state_dict().items() if name not in tied}
    )
    _write_configs(model, folder)


def _write_configs(model: "PreTrainedModel", folder: Path) -> None:
    """config.json and generation_config.json."""
    config: dict[str, Any] = model.config.to_dict()
    config |= {"architectures": [type(model).__name__], "dtype": "float16"}
    config.pop("transformers_version", None)
    write_json(folder / "config.json", config)
    ids = {"bos_token_id", "eos_token_id", "pad_token_id"}
    text_config = model.config.get_text_config()
    write_json(folder / "generation_config.json", {name: getattr(text_config, name) for name in sorted(ids)})


def _copy_files(source: Path, folder: Path) -> None:
    """Copy a tokenizer's files into a folder unless it is that folder."""
    names = ("tokenizer.json", "vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
    for name in names:
        file = source / name
        if file.is_file() and file.resolve() != (folder / name).resolve():
            write_text(folder / name, file.read_text(encoding="utf-8"))


def export_run(part: str, module: "TrainingModule", out: Path, data: Path | None = None) -> list[Path]:
    """Write the folders of one part below `out`; returns them.

    Args:
        part: of `PARTS`. module: that trained it. out: root of the tiny backbones.
        data: see `export_autoencoder_run`.

    Raises:
        ExportError: `module` is not of the class that trains `part`, or nothing says what the latent scale is.
    """
    from experiments.tiny_backbones.captioner import CaptionerModule
    from experiments.tiny_backbones.clip import ClipModule
    from experiments.tiny_backbones.diffusion_export import export_unet
    from experiments.tiny_backbones.imagebind import ImageBindModule
    from experiments.tiny_backbones.language import LanguageModule
    from experiments.tiny_backbones.llava import LlavaModule
    from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
    from mmig.methods.latent_diffusion.autoencoder import AutoencoderModule
    from mmig.methods.latent_diffusion.text_to_image import TextToImageModule
    from mmig.methods.styleclip.gan import StyleGANModule

    exporters: dict[str, tuple[tuple[type, ...], Any]] = {
        "clip": ((ClipModule,), export_clip_run),
        "clip-eval": ((ClipModule,), export_clip_eval_run),
        "lm": ((LanguageModule,), export_language_run),
        "captioner": ((CaptionerModule,), export_captioner_run),
        "llava": ((LlavaModule,), export_llava_run),
        "imagebind": ((ImageBindModule,), export_imagebind_run),
        "vae": ((AutoencoderModule,), partial(export_autoencoder_run, data=data)),
        "unet": ((InstructPix2PixModule, TextToImageModule), lambda module, out: [export_unet(module, out)]),
        "gan": ((StyleGANModule,), export_generator_run),
    }
    expected, export = exporters[part]
    if not isinstance(module, expected):
        names = " or ".join(kind.__name__ for kind in expected)
        raise ExportError(f"export {part}: expected a run of {names}, found {type(module).__name__}")
    return export(module, Path(out))


def main(args: Sequence[str] | None = None) -> None:
    """Export the newest (averaged) weights of a run."""
    import argparse

    parser = OptionParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("run", type=Path, help="run directory or checkpoint file")
    parser.add_argument("--out", type=Path, required=True, help="root of the tiny backbones, assets/tiny")
    parser.add_argument("--data", type=Path, help="configuration of the data to measure a latent scale on")
    arguments = parser.parse_args(args)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    from mmig.checkpoints.checkpoint import load_module

    try:
        module = load_module(arguments.run)
        folders = export_run(arguments.part, module, arguments.out, arguments.data)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    for folder in folders:
        print(folder)  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
