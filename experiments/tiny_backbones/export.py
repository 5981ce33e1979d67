"""Write a trained tiny backbone into assets/tiny in the published folder layouts.

`python -m experiments.tiny_backbones.export clip|lm|captioner RUN --out assets/tiny`
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.tiny_backbones.clip_export import export_clip, preprocessor_config, write_weights
from experiments.tiny_backbones.prompt import PROMPT_TEMPLATE
from mmig.base.files import write_json, write_text

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from experiments.tiny_backbones.captioner import CaptionerModule
    from experiments.tiny_backbones.clip import ClipModule
    from experiments.tiny_backbones.language import LanguageModule
    from mmig.training.module import TrainingModule

logger = logging.getLogger(__name__)
PARTS = ("clip", "lm", "captioner")


class ExportError(ValueError):
    """The run trained something else than was asked for."""


def export_clip_run(module: "ClipModule", out: Path) -> list[Path]:
    """clip/, clip-vision/ and stable-diffusion/{text_encoder,tokenizer}/ below `out`."""
    tokenizer = Path(module.tokenizer.name_or_path)
    return export_clip(module.clip.state_dict(), module.size, tokenizer, out)


def export_language_run(module: "LanguageModule", out: Path) -> list[Path]:
    """llama/: weights, config, generation_config, tokenizer and the prompt format."""
    folder = out / "llama"
    _write_model(module.language_model, folder)
    _copy_files(Path(module.tokenizer.name_or_path), folder)
    write_text(folder / "prompt_template.txt", PROMPT_TEMPLATE + "\n")
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


def _write_model(model: "PreTrainedModel", folder: Path) -> None:
    """config.json, generation_config.json and half-precision model.safetensors without twice stored tied weights."""
    tied = set(model.all_tied_weights_keys)
    write_weights(
        folder / "model.safetensors", {name: value for name, value in model.state_dict().items() if name not in tied}
    )
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


def export_run(part: str, module: "TrainingModule", out: Path) -> list[Path]:
    """Write the folders of one part below `out`; returns them.

    Raises:
        ExportError: `module` is not of the class that trains `part`.
    """
    from experiments.tiny_backbones.captioner import CaptionerModule
    from experiments.tiny_backbones.clip import ClipModule
    from experiments.tiny_backbones.language import LanguageModule

    exporters = {
        "clip": (ClipModule, export_clip_run),
        "lm": (LanguageModule, export_language_run),
        "captioner": (CaptionerModule, export_captioner_run),
    }
    expected, export = exporters[part]
    if not isinstance(module, expected):
        raise ExportError(f"export {part}: expected a run of {expected.__name__}, found {type(module).__name__}")
    return export(module, Path(out))


def main(args: Sequence[str] | None = None) -> None:
    """Export the newest (averaged) weights of a run."""
    import argparse

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("run", type=Path, help="run directory or checkpoint file")
    parser.add_argument("--out", type=Path, required=True, help="root of the tiny backbones, assets/tiny")
    arguments = parser.parse_args(args)
    from mmig.checkpoints.checkpoint import load_module

    try:
        folders = export_run(arguments.part, load_module(arguments.run), arguments.out)
    except ValueError as error:
        parser.exit(1, f"error: {error}\n")
    for folder in folders:
        print(folder)  # noqa: T201, the result of the command


if __name__ == "__main__":
    main()
