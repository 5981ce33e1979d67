"""The training steps that `bench/gpu.py` measures, each with random weights and data, in bfloat16 where training is.

`bare` and `recipe` are what ours are compared with; they are written as the public scripts do it, not with our parts.
"""

import random
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from bench.stages.build import STAGES, build_denoiser, build_stage, random_batch
from bench.stages.configured import (
    Configured,
    build_configured,
    configured_batch,
    configured_cost,
    set_checkpointing,
)
from bench.stages.count import LARGEST, Pieces, operations, step_operations
from bench.stages.seen import Seen
from bench.stages.sizes import Sizes
from bench.tools.clock import now, since
from bench.tools.loops import BareLoop
from bench.tools.trained import TrainedSteps, cycle_length, take_steps
from mmig.cache.latent import LatentFeatures
from mmig.diffusion.process import NoiseProcess
from mmig.diffusion.reading import clip_reader
from mmig.methods.instruct_pix2pix.module import InstructPix2PixModule
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.module import TrainingModule
from mmig.training.optim import OptimizerConfig

Step = Callable[[], None]


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        sizes: of the parts. batch: samples a step. device: where.
        dtype: of frozen weights and of autocast; float32 does without autocast.
        backend: of torch.compile, for what is compiled.
        checkpointing: compute activations again; of stages.
        regions: compile the residual and feed-forward blocks of a stage's UNet, which train.py does not do.
    """

    sizes: Sizes
    batch: int
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    backend: str = "inductor"
    checkpointing: bool = False
    regions: bool = False

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision as training has it."""
        if self.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device.type, self.dtype)


@dataclass(frozen=True)
class Job:
    """A step to repeat.

    Attributes:
        step: takes it.
        begin: called when the timed steps begin.
        operations: (number of timed steps) -> floating-point operations of them all, None where they are not counted.
    """

    step: Step
    begin: Step = lambda: None
    operations: Callable[[int], float | None] = lambda steps: None

    def run(self, device: torch.device, steps: int, warm_up: int) -> tuple[float, int | None]:
        """Take steps, some to warm up first; the seconds of the others, and the peak of memory on a GPU in bytes."""
        for _ in range(warm_up):
            self.step()
        on_gpu = device.type == "cuda"
        if on_gpu:
            torch.cuda.reset_peak_memory_stats(device)
        self.begin()
        start = now(device)
        for _ in range(steps):
            self.step()
        wall, _ = since(start, now(device))
        return wall, torch.cuda.max_memory_allocated(device) if on_gpu else None


class ConfiguredJob:
    """The steps of any training configuration, as Lightning takes them in train.py: a `Job` of its own.

    Args:
        setting: what is measured. config: of what.
    """

    def __init__(self, setting: Setting, config: Configured) -> None:
        self.setting, self.config = setting, config
        self.module = build_configured(config, setting.sizes, setting.device)
        if setting.checkpointing:
            set_checkpointing(self.module, True)
        self.seen = Seen(self.module) if isinstance(self.module, MMIGStage) else None
        self.counted = 0.0

    def run(self, device: torch.device, steps: int, warm_up: int) -> tuple[float, int | None]:
        """See `Job.run`."""
        setting, module = self.setting, self.module
        batch = module.transfer_batch_to_device(configured_batch(self.config, setting.batch, setting.sizes), device, 0)
        measured = TrainedSteps(device, warm_up, steps, self._begin, cycle_length(module))
        take_steps(module, batch, measured, "32-true" if setting.dtype == torch.float32 else "bf16-mixed")
        self.counted = measured.operations
        return measured.seconds, measured.peak

    def operations(self, steps: int) -> float:
        """Of the timed steps; where the meta device does not do, those of further real ones, recomputation included."""
        samples = steps * self.setting.batch
        load = LARGEST if self.seen is None else self.seen.load(samples)
        cost = configured_cost(self.config, self.setting.sizes, load)
        return steps * self.counted if cost.operations is None else samples * cost.operations

    def _begin(self) -> None:
        if self.seen is not None:
            self.seen.clear()


def bare(setting: Setting) -> Job:
    """Stable Diffusion's own training step: the UNet on given latents and text states, compiled, channels last."""
    sizes, batch, device = setting.sizes, setting.batch, setting.device
    unet = build_denoiser(sizes, device, setting.dtype, trained=True)["unet"]
    unet.compile(backend=setting.backend)
    optimizer = torch.optim.AdamW(unet.parameters(), fused=True)
    side = sizes.resolution // 2 ** (len(sizes.vae["block_out_channels"]) - 1)
    noisy, noise = (torch.randn(batch, sizes.unet["in_channels"], side, side, device=device) for _ in range(2))
    tokens = torch.randn(batch, sizes.text["max_position_embeddings"], sizes.text["hidden_size"], device=device)

    def step() -> None:
        times = torch.randint(1000, (batch,), device=device)
        with setting.autocast():
            prediction = unet(noisy, times, encoder_hidden_states=tokens).sample
        F.mse_loss(prediction.float(), noise).backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad()

    one = denoiser_operations(sizes)
    return Job(step, operations=lambda steps: steps * batch * one)


def denoiser_operations(sizes: Sizes) -> int:
    """Operations of a forward and backward of the trained UNet for one sample, without MMSM."""
    stage = build_stage(STAGES[3], sizes, "meta")
    pieces, unet = Pieces(stage.mmig, sizes), stage.mmig.unet
    noisy, times = pieces.zeros(1, *pieces.latents, like=unet), torch.zeros(1, device="meta")
    tokens = pieces.zeros(1, sizes.text["max_position_embeddings"], sizes.text["hidden_size"], like=unet)
    return operations(lambda: unet(noisy, times, encoder_hidden_states=tokens).sample.sum().backward())


def recipe(setting: Setting) -> Job:
    """What diffusers' public InstructPix2Pix script does in a step, without gradient checkpointing.

    The weights' usual memory format, no compilation, torch's plain AdamW, both images encoded and the empty text too in
    every step, and the loss brought to the host as its progress bar does.
    """
    sizes, batch, device = eight_channels(setting.sizes), setting.batch, setting.device
    parts = build_denoiser(sizes, device, setting.dtype, trained=True)
    unet, vae, text = (
        parts[name].to(memory_format=torch.contiguous_format) for name in ("unet", "vae", "text_encoder")
    )
    schedule, optimizer = parts["scheduler"], torch.optim.AdamW(unet.parameters(), weight_decay=0.01)
    drawn = random_batch(batch, sizes)
    source, target = (drawn[name].to(device) for name in ("source", "target"))
    length = sizes.text["max_position_embeddings"]
    ids, empty = (torch.randint(sizes.text["vocab_size"], (count, length), device=device) for count in (batch, 1))

    def step() -> None:
        with torch.no_grad():
            clean = vae.encode(target.to(vae.dtype)).latent_dist.sample() * vae.config.scaling_factor
            seen = vae.encode(source.to(vae.dtype)).latent_dist.mode()
            words, nothing = text(ids)[0], text(empty)[0]
        draw = torch.rand(batch, 1, 1, device=device)
        words = torch.where(draw < 0.1, nothing, words)
        seen = seen * ~((draw >= 0.05) & (draw < 0.15))[..., None]
        noise, times = torch.randn_like(clean), torch.randint(1000, (batch,), device=device)
        noisy = schedule.add_noise(clean, noise, times)
        with setting.autocast():
            prediction = unet(torch.cat([noisy, seen], dim=1).to(unet.dtype), times, words.to(unet.dtype)).sample
            loss = F.mse_loss(prediction.float(), noise.float())
        loss.backward()
        nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.detach().item()

    return Job(step)


def instruct_pix2pix(setting: Setting) -> Job:
    """The same method as this repository trains it, its UNet compiled."""
    sizes = eight_channels(setting.sizes)
    module = BuiltInstructPix2Pix(sizes, setting)
    module.unet.compile(backend=setting.backend)
    return Job(training(module, replace(setting, sizes=sizes)))


class BuiltInstructPix2Pix(InstructPix2PixModule):
    """The training module around parts with random weights, where its own constructor would load them."""

    def __init__(self, sizes: Sizes, setting: Setting) -> None:
        TrainingModule.__init__(self, OptimizerConfig(), {"sdm": 1.0})
        # its own constructor loads frozen parts in float32; autocast computes with them in bfloat16
        parts = build_denoiser(sizes, setting.device, torch.float32, trained=True)
        self.unet, self.vae, self.text_encoder = (parts[name] for name in ("unet", "vae", "text_encoder"))
        self.tokenizer, self.scheduler = parts["tokenizer"], parts["scheduler"]
        self.text_encoder_2 = self.tokenizer_2 = None
        self.reader = clip_reader(self)
        self.process = NoiseProcess.from_scheduler(self.scheduler)
        self.text, self.drop, self.generation, self.train_text_encoder = "instruction", 0.05, 0.0, False
        self.target_latents, self.edit_weight = "sample", 1.0
        self.weighting, self.timestep_exponent = "uniform", 1.0
        self.features = LatentFeatures(self)


def stage(setting: Setting, number: int) -> Job:
    """A stage of MMIG: its losses, backward, clipping, AdamW and the average of the weights."""
    built = build_stage(
        STAGES[number], setting.sizes, setting.device, dtype=setting.dtype, checkpointing=setting.checkpointing
    )
    if setting.regions:
        compile_regions(built.mmig.unet, setting.backend)
    seen = Seen(built)

    def count(steps: int) -> float:
        """Operations of the steps that were taken, for what they read."""
        meta = build_stage(STAGES[number], setting.sizes, "meta")
        load = seen.load(steps * setting.batch)
        return steps * setting.batch * step_operations(meta, Pieces(meta.mmig, setting.sizes, load))

    return Job(training(built, setting), seen.clear, count)


def training(module: TrainingModule, setting: Setting) -> Step:
    """A step of a module on one random batch, other noise each time."""
    module.to(setting.device)  # parts that were built there: the module must know of it
    loop = BareLoop(module, total_steps=1000, autocast=setting.autocast)
    batch = module.transfer_batch_to_device(random_batch(setting.batch, setting.sizes), setting.device, 0)
    draw = random.Random(0)

    def step() -> None:
        first = draw.randrange(10**6)
        loop.step(batch | {"position": torch.arange(first, first + setting.batch)})

    return step


def compile_regions(unet: nn.Module, backend: str) -> None:
    """Compile a UNet's residual and feed-forward blocks in place: what no attention capture and no MMSM touches."""
    torch._dynamo.config.recompile_limit = 64  # one for each width and resolution
    for module in unet.modules():
        if type(module).__name__ in ("ResnetBlock2D", "FeedForward"):
            module.compile(backend=backend)


def eight_channels(sizes: Sizes) -> Sizes:
    """The sizes with an editing UNet, which sees the source beside the noisy latents."""
    return replace(sizes, unet=sizes.unet | {"in_channels": 8})


STAGE_JOBS = {f"stage{number}": partial(stage, number=number) for number in STAGES}
JOBS: dict[str, Callable[[Setting], Job]] = {
    "bare": bare,
    "stage3": STAGE_JOBS["stage3"],
    "stage5": STAGE_JOBS["stage5"],
    "recipe": recipe,
    "instruct_pix2pix": instruct_pix2pix,
    **STAGE_JOBS,
}
"""In the order in which they matter, for time may run out."""
