"""diffusers' public InstructPix2Pix training (examples/instruct_pix2pix), written anew from its documentation.

What that script does a step is here, with the libraries that it uses: rows of a dataset of `datasets`, decoded and
transformed as they are read, both images and both texts (the empty one too) encoded in every step, drops from one draw
a sample, the mean squared error of the noise, accelerate's backward and clipping, torch's plain AdamW, diffusers'
EMAModel, a TensorBoard entry and a progress bar each step. Not here: arguments, downloads, checkpoints, validation. The
dataset's table is in memory, not in a file.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from huggingface_hub.utils import tqdm
from PIL import Image
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from torchvision.transforms import RandomCrop
from transformers import CLIPTextModel, CLIPTokenizer

Entry = dict[str, Any]
Pair = tuple[bytes, bytes, str]
"""Bytes of source and target, and the instruction."""


@dataclass(frozen=True)
class RecipeSettings:
    """Its arguments.

    Attributes:
        batch_size: samples a step. resolution: pixels. steps: of the run.
        lr, weight_decay: of AdamW. drop: part of the samples that lose the text alone, both, and the image.
        mixed_precision: "no" or "bf16".
        seed: of the drops.
    """

    batch_size: int
    resolution: int
    steps: int
    lr: float = 5e-5
    weight_decay: float = 1e-2
    drop: float = 0.05
    mixed_precision: str = "no"
    seed: int = 42


@dataclass(frozen=True)
class Drawn:
    """What a step draws.

    Attributes:
        posterior, noise: standard normal, [B,c,h,w]. timesteps: int64 [B]. uniform: decides the drops, [B].
    """

    posterior: Tensor
    noise: Tensor
    timesteps: Tensor
    uniform: Tensor


TORCHS_OWN = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""Attention as the script has it; train.py, in the same process, chooses another for itself (`suit_products`)."""


class Preprocess:
    """What is done to a batch of the dataset's rows as they are read: images squashed to a square, one crop for all.

    Args:
        tokenizer: CLIP's. resolution: pixels.
    """

    def __init__(self, tokenizer: Any, resolution: int) -> None:
        self.tokenizer, self.resolution = tokenizer, resolution
        self.crop = RandomCrop(resolution)

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, Any]:
        """Columns `source` and `target`, float32 [B,3,R,R] in [-1,1], and `ids`, int64 [B,L]."""
        sides = [np.stack([self._pixels(image) for image in rows[f"{side}_image"]]) for side in ("input", "edited")]
        images = self.crop(2 * (torch.tensor(np.concatenate(sides)) / 255) - 1)
        source, target = images.chunk(2)
        return {"source": source, "target": target, "ids": self._ids(rows["edit_prompt"])}

    def _pixels(self, image: Image.Image) -> np.ndarray:
        return np.array(image.convert("RGB").resize((self.resolution, self.resolution))).transpose(2, 0, 1)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        length = self.tokenizer.model_max_length
        options = {"max_length": length, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(list(texts), **options).input_ids


def dataset_of(pairs: Sequence[Pair]) -> datasets.Dataset:
    """Rows as on the hub: both images encoded, decoded when they are read, and the instruction."""
    sources, targets, texts = zip(*pairs, strict=True)
    columns = {
        "input_image": [{"bytes": data, "path": None} for data in sources],
        "edit_prompt": list(texts),
        "edited_image": [{"bytes": data, "path": None} for data in targets],
    }
    image, text = datasets.Image(), datasets.Value("string")
    kinds = datasets.Features({"input_image": image, "edit_prompt": text, "edited_image": image})
    return datasets.Dataset.from_dict(columns, features=kinds)


def together(entries: list[Entry]) -> dict[str, Tensor]:
    """A batch: images float32 [B,3,R,R], ids int64 [B,L]."""
    images = {
        name: torch.stack([entry[name] for entry in entries]).contiguous().float() for name in ("source", "target")
    }
    return images | {"ids": torch.stack([entry["ids"] for entry in entries])}


class Recipe:
    """The script's run: takes a step of its own data each time it is asked to.

    Args:
        unet: folder of a UNet of 8 channels. backbone: folder of the pipeline with all else.
        pairs: what it trains on. settings: its arguments. logs: folder of its log.
    """

    def __init__(
        self,
        unet: Path,
        backbone: Path,
        pairs: Sequence[Pair],
        settings: RecipeSettings,
        logs: Path,
    ) -> None:
        self.settings = settings
        self.accelerator = Accelerator(
            cpu=True, mixed_precision=settings.mixed_precision, log_with="tensorboard", project_dir=logs
        )
        self.dtype = torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32
        self._load(unet, backbone)
        data = dataset_of(pairs).with_transform(Preprocess(self.tokenizer, settings.resolution))
        loader = DataLoader(data, settings.batch_size, shuffle=True, collate_fn=together, num_workers=0)
        optimizer = torch.optim.AdamW(
            self.unet.parameters(), lr=settings.lr, betas=(0.9, 0.999), weight_decay=settings.weight_decay, eps=1e-8
        )
        schedule = get_scheduler("constant", optimizer, num_warmup_steps=0, num_training_steps=settings.steps)
        self.unet, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            self.unet, optimizer, loader, schedule
        )
        self.average = EMAModel(self.unet.parameters(), model_cls=UNet2DConditionModel, model_config=self.unet.config)
        self.accelerator.init_trackers("instruct-pix2pix")
        self.drops = torch.Generator().manual_seed(settings.seed)
        self.bar = tqdm(range(settings.steps), file=io.StringIO())
        self.batches = chain.from_iterable(iter(self.loader) for _ in repeat(None))

    def _load(self, unet: Path, backbone: Path) -> None:
        self.unet = UNet2DConditionModel.from_pretrained(unet)
        self.vae = AutoencoderKL.from_pretrained(backbone, subfolder="vae", torch_dtype=self.dtype)
        self.text_encoder = CLIPTextModel.from_pretrained(backbone, subfolder="text_encoder", dtype=self.dtype)
        self.tokenizer = CLIPTokenizer.from_pretrained(backbone, subfolder="tokenizer")
        self.noise_schedule = DDPMScheduler.from_pretrained(backbone, subfolder="scheduler")
        self.vae.requires_grad_(False)
        self.text_encoder.requires_grad_(False)
        self.unet.train()

    @property
    def device(self) -> torch.device:
        """The accelerator's."""
        return self.accelerator.device

    def step(self, _: Any = None) -> float:
        """Take a step on the next batch of its own; its loss."""
        with sdpa_kernel(TORCHS_OWN):
            return self._step(next(self.batches))

    def _step(self, batch: dict[str, Tensor]) -> float:
        with self.accelerator.accumulate(self.unet):
            loss = self.loss(batch, self.draw(batch))
            shown = self.accelerator.gather(loss.repeat(self.settings.batch_size)).mean().item()
            self.accelerator.backward(loss)
            if self.accelerator.sync_gradients:
                self.accelerator.clip_grad_norm_(self.unet.parameters(), 1.0)
            self.optimizer.step()
            self.schedule.step()
            self.optimizer.zero_grad()
        if self.accelerator.sync_gradients:
            self.average.step(self.unet.parameters())
            self.bar.update(1)
            self.accelerator.log({"train_loss": shown}, step=self.average.optimization_step)
        self.bar.set_postfix(step_loss=loss.detach().item(), lr=self.schedule.get_last_lr()[0])
        return shown

    def draw(self, batch: dict[str, Tensor]) -> Drawn:
        """The random numbers of a step; those of the drops from a generator of their own."""
        size, side = len(batch["ids"]), batch["target"].shape[-1] // 2 ** (len(self.vae.config.block_out_channels) - 1)
        shape = (size, self.vae.config.latent_channels, side, side)
        posterior, noise = (torch.randn(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        timesteps = torch.randint(0, self.noise_schedule.config.num_train_timesteps, (size,), device=self.device)
        return Drawn(posterior, noise, timesteps.long(), torch.rand(size, generator=self.drops))

    def loss(self, batch: dict[str, Tensor], drawn: Drawn) -> Tensor:
        """Mean squared error of the predicted noise."""
        posterior = self._posterior(batch["target"])
        latents = (posterior.mean + posterior.std * drawn.posterior) * self.vae.config.scaling_factor
        noisy = self.noise_schedule.add_noise(latents, drawn.noise, drawn.timesteps)
        words = self.text_encoder(batch["ids"])[0]
        source = self._posterior(batch["source"]).mode()
        words, source = self._dropped(words, source, drawn.uniform)
        target = drawn.noise
        if self.noise_schedule.config.prediction_type == "v_prediction":
            target = self.noise_schedule.get_velocity(latents, drawn.noise, drawn.timesteps)
        inputs = torch.cat([noisy, source], dim=1)
        prediction = self.unet(inputs, drawn.timesteps, words, return_dict=False)[0]
        return F.mse_loss(prediction.float(), target.float(), reduction="mean")

    def _posterior(self, images: Tensor) -> Any:
        return self.vae.encode(images.to(self.dtype)).latent_dist

    def _dropped(self, words: Tensor, source: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Text states and source latents with those of the dropped samples replaced."""
        drop, uniform = self.settings.drop, uniform.to(words.device)
        options = {"max_length": self.tokenizer.model_max_length, "padding": "max_length", "return_tensors": "pt"}
        nothing = self.text_encoder(self.tokenizer([""], **options).input_ids.to(words.device))[0]
        words = torch.where((uniform < 2 * drop)[:, None, None], nothing, words)
        kept = 1 - ((uniform >= drop) & (uniform < 3 * drop)).to(source.dtype)
        return words, source * kept[:, None, None, None]
