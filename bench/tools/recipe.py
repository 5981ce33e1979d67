"""diffusers' public InstructPix2Pix training (examples/instruct_pix2pix), written anew from its documentation.

What that script does a step is here, with the libraries that it uses: pairs decoded and transformed in the loading
process, both images and both texts (the empty one too) encoded in every step, drops from one draw a sample, the mean
squared error of the noise, accelerate's backward and clipping, torch's plain AdamW, diffusers' EMAModel, a TensorBoard
entry and a progress bar each step. Not here: arguments, downloads, checkpoints, validation; reading the pairs from a
parquet file, in place of which they lie encoded in memory.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import RandomCrop
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

Entry = dict[str, Any]


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


class EditPairs(Dataset[Entry]):
    """Encoded pairs, decoded and transformed a batch at a time: squashed to a square, one crop for a whole batch.

    Args:
        pairs: bytes of source and target, and the instruction.
        tokenizer: CLIP's. resolution: pixels.
    """

    def __init__(self, pairs: Sequence[tuple[bytes, bytes, str]], tokenizer: Any, resolution: int) -> None:
        self.pairs, self.tokenizer, self.resolution = pairs, tokenizer, resolution
        self.crop = RandomCrop(resolution)

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitems__(self, places: Sequence[int]) -> list[Entry]:
        """The samples at these places: images float32 [3,R,R] in [-1,1] and ids int64 [L]."""
        sources, targets, texts = zip(*(self.pairs[place] for place in places), strict=True)
        stacked = np.concatenate([np.stack([self._pixels(data) for data in side]) for side in (sources, targets)])
        images = self.crop(2 * (torch.tensor(stacked) / 255) - 1)
        source, target = images.chunk(2)
        ids = self._ids(texts)
        return [{"source": source[row], "target": target[row], "ids": ids[row]} for row in range(len(places))]

    def _pixels(self, data: bytes) -> np.ndarray:
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((self.resolution, self.resolution))
        return np.array(image).transpose(2, 0, 1)

    def _ids(self, texts: Sequence[str]) -> Tensor:
        length = self.tokenizer.model_max_length
        options = {"max_length": length, "padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return self.tokenizer(list(texts), **options).input_ids


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
        pairs: as of `EditPairs`. settings: its arguments. logs: folder of its log.
    """

    def __init__(
        self,
        unet: Path,
        backbone: Path,
        pairs: Sequence[tuple[bytes, bytes, str]],
        settings: RecipeSettings,
        logs: Path,
    ) -> None:
        self.settings = settings
        self.accelerator = Accelerator(
            cpu=True, mixed_precision=settings.mixed_precision, log_with="tensorboard", project_dir=logs
        )
        self.dtype = torch.bfloat16 if settings.mixed_precision == "bf16" else torch.float32
        self._load(unet, backbone)
        data = EditPairs(pairs, self.tokenizer, settings.resolution)
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
        batch = next(self.batches)
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
