"""Published backbones without their weights: folders with the published configurations, and random numbers in place of
whatever a library would read. Nothing is downloaded.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from safetensors.torch import save_file
from torch import nn

from bench.stages.sizes import Sizes
from mmig.backbones.hub import split_revision
from mmig.base.files import write_json

TINY = Path(__file__).resolve().parent.parent.parent / "assets/tiny"
"""The tokenizers of the small world: any ids do, and these lie in the repository."""


@contextmanager
def with_folders(settings: Any, sizes: Sizes) -> Iterator[Any]:
    """Plain settings in which each published hub id of this repository's configurations is a folder in its layout.

    Args:
        settings: with hub ids, `owner/name` or `owner/name@revision`; others stay as they are.
        sizes: of the parts.

    Yields:
        The settings; the folders are gone after the block. Their weights files hold no weights (`random_weights`).
    """
    with tempfile.TemporaryDirectory() as root:

        def located(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: located(each) for name, each in value.items()}
            if isinstance(value, list):
                return [located(each) for each in value]
            name = split_revision(value)[0] if isinstance(value, str) else ""
            if name not in _PUBLISHED:
                return value
            folder = Path(root) / name
            if not folder.exists():
                folder.mkdir(parents=True)
                _PUBLISHED[name](folder, sizes)
            return str(folder)

        yield located(settings)


@contextmanager
def random_weights(device: torch.device | str) -> Iterator[None]:
    """Let `from_pretrained` of diffusers and transformers make a folder's model on a device, with random weights.

    Raises:
        ValueError: inside the block, where quantised weights are asked for.
    """
    from diffusers import ModelMixin
    from transformers import PreTrainedModel

    def of_diffusers(cls: Any, folder: Path, torch_dtype: torch.dtype = torch.float32, **named: Any) -> Any:
        return _made(lambda: cls.from_config(cls.load_config(folder)), device, torch_dtype, named)

    def of_transformers(
        cls: Any, folder: Path, *_: Any, config: Any = None, dtype: torch.dtype = torch.float32, **named: Any
    ) -> Any:
        if named.get("quantization_config") is not None:
            raise ValueError(f"{folder}: random weights cannot be quantised; leave 4 bits out")
        known = config or cls.config_class.from_pretrained(folder)
        return _made(lambda: cls(known), device, dtype, named)

    with ExitStack() as stack:
        for base, make in ((ModelMixin, of_diffusers), (PreTrainedModel, of_transformers)):
            stack.enter_context(patch.object(base, "from_pretrained", classmethod(make)))
        yield


def _made(make: Callable[[], nn.Module], device: torch.device | str, dtype: torch.dtype, named: dict[str, Any]) -> Any:
    with torch.device(device), default_dtype(dtype):
        model = make().eval()
    report = {"missing_keys": [], "unexpected_keys": [], "mismatched_keys": []}
    return (model, report) if named.get("output_loading_info") else model


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Floating tensors that say no dtype have this one inside the block."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _stable_diffusion(folder: Path, sizes: Sizes) -> None:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig

    with torch.device("meta"):
        parts = {"unet": UNet2DConditionModel(**sizes.unet), "vae": AutoencoderKL(**sizes.vae)}
    for name, part in parts.items():
        part.save_config(folder / name)
        _no_weights(folder / name)
    CLIPTextConfig(**sizes.text).save_pretrained(folder / "text_encoder")
    _no_weights(folder / "text_encoder")
    shutil.copytree(TINY / "stable-diffusion/tokenizer", folder / "tokenizer")
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    schedule.save_config(folder / "scheduler")


def _eight_channels(folder: Path, sizes: Sizes) -> None:
    _stable_diffusion(folder, replace(sizes, unet=sizes.unet | {"in_channels": 2 * sizes.unet["in_channels"]}))


def _flux_kontext(folder: Path, sizes: Sizes) -> None:
    """Sizes of the published config.json files; CLIP is Stable Diffusion's."""
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
    from transformers import CLIPTextConfig, T5Config, T5Tokenizer

    with torch.device("meta"):
        parts = {"transformer": FluxTransformer2DModel(**sizes.flux), "vae": AutoencoderKL(**sizes.flux_vae)}
    for name, part in parts.items():
        part.save_config(folder / name)
    CLIPTextConfig(**sizes.text).save_pretrained(folder / "text_encoder")
    T5Config(**sizes.t5).save_pretrained(folder / "text_encoder_2")
    for name in (*parts, "text_encoder", "text_encoder_2"):
        _no_weights(folder / name)
    shutil.copytree(TINY / "stable-diffusion/tokenizer", folder / "tokenizer")
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>", "\u2581")]  # any ids do
    T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=512).save_pretrained(folder / "tokenizer_2")
    FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True).save_config(folder / "scheduler")


def _llama(folder: Path, sizes: Sizes) -> None:
    from transformers import LlamaConfig

    _copy_tokenizer(TINY / "llama", folder)
    LlamaConfig(**sizes.llm).save_pretrained(folder)
    _no_weights(folder)


def _llava(folder: Path, sizes: Sizes) -> None:
    from transformers import CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig

    _copy_tokenizer(TINY / "llama", folder)
    with_padding = 64  # rows that LLaVA has behind LLaMA's
    text = LlamaConfig(**sizes.llm | {"vocab_size": sizes.llm["vocab_size"] + with_padding})
    vision = CLIPVisionConfig(**sizes.vision | {"image_size": sizes.mllm_side})
    LlavaConfig(vision_config=vision, text_config=text).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    _no_weights(folder)


def _vision(folder: Path, sizes: Sizes) -> None:
    from transformers import CLIPVisionConfig

    CLIPVisionConfig(**sizes.vision).save_pretrained(folder)
    _no_weights(folder)


def _blip2(folder: Path, sizes: Sizes) -> None:
    from transformers import AutoTokenizer, Blip2Config, Blip2Processor, BlipImageProcessor

    config = Blip2Config(**sizes.captioner)
    side = config.vision_config.image_size
    images = BlipImageProcessor(size={"height": side, "width": side})
    tokenizer = AutoTokenizer.from_pretrained(TINY / "blip2")
    Blip2Processor(images, tokenizer, num_query_tokens=config.num_query_tokens).save_pretrained(folder)
    config.save_pretrained(folder)
    _no_weights(folder)


def _vgg16(folder: Path, _sizes: Sizes) -> None:
    """Of zeros, for what reads it asks no library; the classifier, which LPIPS leaves aside, is not there."""
    import torchvision

    with torch.device("meta"):
        features = torchvision.models.vgg16(weights=None).features
    state = {f"features.{name}": torch.zeros(value.shape) for name, value in features.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text('{"architecture": "vgg16"}', encoding="utf-8")


def _vicuna(folder: Path, sizes: Sizes) -> None:
    _llama(folder, replace(sizes, llm=sizes.llm | {"max_position_embeddings": 4096}))


def _sdxl(folder: Path, sizes: Sizes) -> None:
    """Stable Diffusion's with a second text encoder and SDXL's denoiser."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig

    _stable_diffusion(folder, sizes)
    with torch.device("meta"):
        UNet2DConditionModel(**sizes.sdxl).save_config(folder / "unet")
    CLIPTextConfig(**sizes.text_2).save_pretrained(folder / "text_encoder_2")
    _no_weights(folder / "text_encoder_2")
    shutil.copytree(TINY / "stable-diffusion/tokenizer", folder / "tokenizer_2")


def _imagebind(folder: Path, _sizes: Sizes) -> None:
    from mmig.backbones.imagebind_model import ImageBindConfig

    ImageBindConfig().save_pretrained(folder)  # of its published sizes, whatever the others are
    for file in (TINY / "stable-diffusion/tokenizer").iterdir():
        shutil.copy(file, folder)
    _no_weights(folder)


def _of_diffusers(kind: str) -> Callable[[Path, Sizes], None]:
    """A model in diffusers' layout whose class says its published sizes itself."""

    def write(folder: Path, _sizes: Sizes) -> None:
        (folder / "config.json").write_text(json.dumps({"_class_name": kind}))
        _no_weights(folder)

    return write


def _style_generator(folder: Path, sizes: Sizes) -> None:
    from mmig.methods.styleclip.generator import StyleGenerator

    with torch.device("meta"):
        config = StyleGenerator(sizes.resolution).config
    write_json(folder / "generator" / "config.json", {"_class_name": "StyleGenerator", **config})
    _no_weights(folder / "generator")


def _copy_tokenizer(source: Path, folder: Path) -> None:
    for file in source.glob("*token*"):
        shutil.copy(file, folder)


def _no_weights(folder: Path) -> None:
    """The loaders look for a file of weights before they ask the library."""
    save_file({}, folder / "model.safetensors")


_PUBLISHED: dict[str, Callable[[Path, Sizes], None]] = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": _stable_diffusion,
    "timbrooks/instruct-pix2pix": _eight_channels,
    "black-forest-labs/FLUX.1-Kontext-dev": _flux_kontext,
    "huggyllama/llama-7b": _llama,
    "llava-hf/llava-1.5-7b-hf": _llava,
    "openai/clip-vit-large-patch14": _vision,
    "Salesforce/blip2-opt-2.7b": _blip2,
    "timm/vgg16.tv_in1k": _vgg16,
    "lmsys/vicuna-7b-v1.5": _vicuna,
    "stabilityai/stable-diffusion-xl-base-1.0": _sdxl,
    "backbones/imagebind-huge": _imagebind,
    "backbones/aesthetic": _of_diffusers("AestheticPredictor"),
    "runs/any2pix-prior": _of_diffusers("RefinementPrior"),
    "models/stylegan2-ffhq": _style_generator,
}
