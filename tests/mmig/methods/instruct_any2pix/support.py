"""InstructAny2Pix on tiny random backbones, and batches of the world of any modality for it."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from PIL import Image

from datamodules.schema import AttachmentSettings, Sample, collate, with_attachment_tensors
from datamodules.tinyworld.multimodal_samples import draw_multimodal_sample
from datamodules.tinyworld.sample import with_images
from mmig.backbones.diffusion import load_scheduler, load_unet, load_vae
from mmig.diffusion.sdxl import pooled_width
from mmig.methods.instruct_any2pix.aesthetic import AestheticPredictor
from mmig.methods.instruct_any2pix.language_module import LanguageModule, LLM1Module
from mmig.methods.instruct_any2pix.prior import RefinementPrior
from mmig.methods.instruct_any2pix.reader import ReaderConfig
from mmig.training.optim import OptimizerConfig
from tests.mmig.methods.umm_diffusion.support import EMBEDDING_WIDTH, build_clip_image
from tests.tiny_fixtures import IMAGE_SIZE, build_llama, build_stable_diffusion
from tests.tiny_saving import save, seeded
from tests.tiny_sdxl import build_sdxl
from tests.tiny_text import write_clip_tokenizer

WIDTH = 16
"""D of the tiny encoder."""
DATA: dict[str, Any] = {"attachment_size": IMAGE_SIZE, "audio_seconds": 2.0}
PRIOR = {"hidden_dim": 24, "layers": 1, "heads": 2, "score_dim": 8}
MODULES = "mmig.methods.instruct_any2pix"


def build_imagebind(folder: Path, seed: int = 7) -> Path:
    """Write an ImageBind of three small towers and its tokenizer."""
    from mmig.backbones.imagebind_model import ImageBindConfig, ImageBindModel

    vocabulary = write_clip_tokenizer(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = ImageBindConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16, "projection_dim": WIDTH},
        text_config={
            **sizes,
            "vocab_size": vocabulary,
            "projection_dim": WIDTH,
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
            "pad_token_id": vocabulary - 1,
        },
        audio_config={
            **sizes,
            "num_mel_bins": 32,
            "num_frames": 48,
            "clip_seconds": 0.5,
            "num_clips": 2,
            "projection_dim": WIDTH,
        },
    )
    with seeded(seed):
        model = ImageBindModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return save(model, folder, torch.float32)


@cache
def root() -> Path:
    """Every tiny backbone, written once a process."""
    folder = Path(mkdtemp())
    build_imagebind(folder / "imagebind")
    build_stable_diffusion(folder / "stable-diffusion")
    build_sdxl(folder / "sdxl")
    build_llama(folder / "llama")
    build_clip_image(folder / "clip")
    with seeded(9):
        AestheticPredictor(EMBEDDING_WIDTH).save_pretrained(folder / "aesthetic")
        RefinementPrior(WIDTH, **PRIOR).save_pretrained(folder / "prior")
    return folder


def path(name: str) -> str:
    """A tiny backbone's folder."""
    return str(root() / name)


def sample_at(index: int, split: str = "train") -> Sample:
    """A sample of the world of any modality with PIL images."""
    return with_images(draw_multimodal_sample(0, split, index), picture)


def as_batch(samples: list[Any]) -> Any:
    """Samples as `collate` makes a batch of them."""
    settings = AttachmentSettings(**DATA)
    return collate([with_attachment_tensors(sample, settings) for sample in samples], size=(IMAGE_SIZE, IMAGE_SIZE))


def batch(*indices: int) -> Any:
    """Samples of the world of any modality as a batch."""
    return as_batch([sample_at(index) for index in indices])


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    """Random unit vectors."""
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def picture(pixels: Any) -> Image.Image:
    """An array of the small world as PIL picture or mask."""
    return Image.fromarray(pixels.astype("uint8") * 255 if pixels.dtype == bool else pixels)


def decoder_folder(name: str = "decoder", base: str = "stable-diffusion") -> str:
    """A random decoder as a folder: the pipeline's own parts with a projector, as `DecoderModule` exports it."""
    from mmig.methods.instruct_any2pix.decoder import Decoder, save_decoder
    from mmig.methods.instruct_any2pix.projectors import EmbeddingProjector

    folder = root() / name
    if not folder.exists():
        vae, unet, scheduler = load_vae(path(base)), load_unet(path(base)), load_scheduler(path(base))
        with seeded(len(name)):
            projector = EmbeddingProjector(WIDTH, unet.config.cross_attention_dim, pooled_width(unet), 24)
        save_decoder(Decoder(vae, unet, scheduler, projector), folder)
    return str(folder)


def language(kind: type[LanguageModule] = LLM1Module, decoder: bool = False, **settings: Any) -> Any:
    """A language phase, its weights large enough that what is read matters."""
    torch.manual_seed(0)
    own = {"language": ReaderConfig(max_length=128), **settings}
    parts = {"llm": path("llama"), "imagebind": path("imagebind"), "prior": path("prior")}
    if decoder:
        parts["decoder"] = decoder_folder()
    found = kind(OptimizerConfig(lr=1e-3, weight_decay=0.0), **parts, **own)
    with torch.no_grad():
        for parameter in found.reader.llm.parameters():
            parameter.mul_(8.0 if parameter.ndim > 1 else 1.0)
    return found


def build_refiner(folder: Path) -> str:
    """Write the SDXL-shaped parts as a pipeline that diffusers opens whole."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLImg2ImgPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    classes = {
        "vae": AutoencoderKL,
        "text_encoder": CLIPTextModel,
        "text_encoder_2": CLIPTextModelWithProjection,
        "tokenizer": CLIPTokenizer,
        "tokenizer_2": CLIPTokenizer,
        "unet": UNet2DConditionModel,
        "scheduler": EulerDiscreteScheduler,
    }
    parts = {name: kind.from_pretrained(path("sdxl"), subfolder=name) for name, kind in classes.items()}
    StableDiffusionXLImg2ImgPipeline(**parts).save_pretrained(folder)
    return str(folder)
