"""Stages of tiny backbones, batches of the small world, and what a forward of the denoiser is by hand."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datamodules.schema import Batch, collate
from datamodules.tinyworld.sample import make_sample
from mmig.backbones.loading import remove_dropout
from mmig.language.sequences import response_ids
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.losses import Losses
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.parts import BackboneConfig, MMSMConfig
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.methods.mmig.stages.paper import Stage1, Stage5
from mmig.training.optim import OptimizerConfig
from mmig.training.rng import Draws
from tests.mmig.methods.mmig.captioner_support import build_seeing_blip2
from tests.tiny_fixtures import TinyBackbones, build_all


def seeing_backbones(root: Path) -> TinyBackbones:
    """Every tiny backbone, with a BLIP-2 to which its image matters."""
    folders = build_all(root)
    build_seeing_blip2(folders.blip2)
    return folders


def build_stage(
    folders: TinyBackbones, kind: type[MMIGStage], dtype: str = "float32", vae: Path | None = None, **settings: Any
) -> MMIGStage:
    """A stage in "concat" mode, with the backbones that it needs."""
    torch.manual_seed(0)
    backbones = BackboneConfig(
        str(folders.stable_diffusion),
        str(folders.llama),
        unet=str(folders.instruct_pix2pix),
        vae=None if vae is None else str(vae),
        vision=None if kind is Stage1 else str(folders.clip_vision),
        captioner=str(folders.blip2) if kind is Stage5 else None,
        dtype=dtype,
    )
    settings = {"optimizer": OptimizerConfig(), "mmsm": MMSMConfig(dim=16, heads=2)} | settings
    return kind(backbones, source_conditioning="concat", **settings)


def settled_stage(folders: TinyBackbones, kind: type[MMIGStage], **settings: Any) -> MMIGStage:
    """The same without dropout, its MMSM and adapters off their start, where they do nothing."""
    stage = build_stage(folders, kind, multimodal=MultimodalConfig(dropout=0.0), **settings)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for module in (stage.mmig.mmsm, stage.mmig.mllm.adapters):
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    if stage.mmig.captioner is not None:
        remove_dropout(stage.mmig.captioner)
    return stage


def mmig_values(model: MMIG, batch: Batch, draws: Draws, terms: Collection[str]) -> dict[str, Tensor]:
    """Value of each of these terms of each sample, [B]."""
    return {name: term.values for name, term in Losses(model, batch, draws, terms).terms().items()}


def world_batch(positions: Collection[int] = (0, 1, 2, 3)) -> Batch:
    """Samples of the small world with every field, at the given positions of the stream."""
    samples = [make_sample(0, "val", index % 1000, photographs=False) for index in positions]
    return collate(samples, positions=list(positions))


def bare_batch(positions: tuple[int, int]) -> Batch:
    """Two samples without any optional field: one has texts alone, the other a target and its caption."""
    kept = ({"key", "instruction", "response"}, {"key", "target", "target_caption"})
    samples = [
        {name: value for name, value in make_sample(0, "val", index, photographs=False).items() if name in names}
        for index, names in enumerate(kept)
    ]
    return collate(samples, positions=positions, size=(64, 64))


def positions_at(wanted: Callable[[float], bool], count: int, seed: int = 0) -> list[int]:
    """The first positions whose timestep is wanted, given as a part of the schedule."""
    found = []
    for position in range(100_000):
        if wanted(Draws(seed, [position]).uniform("timestep").item()):
            found.append(position)
        if len(found) == count:
            return found
    raise AssertionError("no such timesteps")


class Call(NamedTuple):
    """A forward of a module: positional and keyword arguments, and its output."""

    inputs: tuple
    named: dict[str, Any]
    output: Any


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Call]]:
    """Keep every forward of a module."""
    calls: list[Call] = []

    def keep(_module: nn.Module, inputs: tuple, named: dict[str, Any], output: Any) -> None:
        calls.append(Call(inputs, dict(named), output))

    with module.register_forward_hook(keep, with_kwargs=True):
        yield calls


@contextmanager
def counted(root: nn.Module) -> Iterator[Counter]:
    """Count the forwards of every module below `root`, by name."""
    counts: Counter[str] = Counter()
    with ExitStack() as stack:
        for name, module in root.named_modules():
            hook = module.register_forward_hook(lambda *_, name=name: counts.update([name]))
            stack.enter_context(hook)
        yield counts


class ByHand:
    """The denoiser's problem of a batch without MMIG's own code: diffusers and transformers alone.

    Attributes:
        noise, image: [B,4,h,w] each; `image` is the source's part of the input.
        timesteps: [B].
        tokens: text states of the responses, [B,77,D].
        e0, mask: states of the responses, [B,L,D], and where they are tokens.
    """

    @torch.no_grad()
    def __init__(self, model: MMIG, batch: Batch, draws: Draws) -> None:
        from diffusers import DDPMScheduler

        self.model = model
        self.scheduler = DDPMScheduler.from_config(model.scheduler.config)
        posterior = model.vae.encode(batch["target"]).latent_dist
        drawn = draws.normal("posterior", posterior.mean.shape[1:])
        self.clean = model.vae.config.scaling_factor * (posterior.mean + posterior.std * drawn)
        self.noise = draws.normal("noise", self.clean.shape[1:])
        self.timesteps = (1000 * draws.uniform("timestep")).long()
        self.image = model.vae.encode(batch["source"]).latent_dist.mode()
        self.tokens = self.encode(batch["response"])
        ids = response_ids(model.mllm.tokenizer, batch["response"], 128)
        states = model.mllm.states_of_ids(batch["instruction"], ids, batch["source"], batch["has_source"])
        self.e0, self.mask = states

    @torch.no_grad()
    def encode(self, texts: list[str]) -> Tensor:
        """CLIP's last hidden states of padded texts, [B,77,D]."""
        encoded = self.model.tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
        return self.model.text_encoder(encoded.input_ids).last_hidden_state

    def inputs(self, timesteps: Tensor) -> Tensor:
        """What the denoiser sees at other timesteps of the same latents and noise, [B,8,h,w]."""
        return torch.cat([self.scheduler.add_noise(self.clean, self.noise, timesteps), self.image], dim=1)

    @torch.no_grad()
    def predict(self, tokens: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """One forward with e6 in place of e1 at the mid block: the prediction [B,4,h,w], and L_MMSM [B]."""
        mmsm, losses = self.model.mmsm["mid_block"], []

        def mix(_module: nn.Module, _inputs: tuple, e1: Tensor) -> Tensor:
            e6, loss, *_ = mmsm(e1, self.e0, self.mask)
            losses.append(loss)
            return e6

        with self.model.unet.mid_block.register_forward_hook(mix):
            prediction = self.model.unet(self.inputs(timesteps), timesteps, encoder_hidden_states=tokens).sample
        return prediction, losses[0]
