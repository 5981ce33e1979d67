"""Counts a stage: parameters, memory that does not depend on the batch, and floating-point operations of its parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.stages.sizes import Sizes
from mmig.backbones.loading import num_parameters
from mmig.diffusion.conditioning import Conditioning
from mmig.diffusion.latents import decode, encode, latent_shape
from mmig.language.sequences import ResponseStates
from mmig.methods.mmig.llm.adapter_hooks import ROUTING
from mmig.methods.mmig.llm.visual_tokens import class_tokens
from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.stages.mmig_stage import MMIGStage
from mmig.training.module import TrainingModule
from mmig.training.turns import within

LLM_TOKENS, RESPONSE_TOKENS, CAPTION_TOKENS = 512, 128, 64
"""LaVIN's longest text, the configurations' longest response and caption: what is counted is the largest step."""


@dataclass(frozen=True)
class Load:
    """What a step reads of each sample; the default is the largest step.

    Attributes:
        llm, response, caption: tokens of the LLM's text, of its response, and of BLIP-2's caption with the start.
        captioned: share of the samples whose predicted image BLIP-2 sees.
    """

    llm: float = LLM_TOKENS
    response: float = RESPONSE_TOKENS
    caption: float = CAPTION_TOKENS + 1
    captioned: float = 1.0


LARGEST = Load()


@dataclass(frozen=True)
class Memory:
    """Parameters, and bytes that do not depend on the batch."""

    trained: int
    frozen: int
    weights: int
    gradients: int
    moments: int
    average: int

    @property
    def total(self) -> int:
        """Bytes of a step before any activation, without the EMA."""
        return self.weights + self.gradients + self.moments


def memory(module: TrainingModule) -> Memory:
    """Count a module's parameters; each trained one has a gradient and two moments of AdamW of its type, and, where EMA
    keeps it, an average.
    """
    trained = {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}
    size = sum(parameter.nbytes for parameter in trained.values())
    count = sum(parameter.numel() for parameter in trained.values())
    weights = sum(parameter.nbytes for parameter in module.parameters())
    average = sum(value.nbytes for name, value in trained.items() if not within(name, module.not_averaged))
    return Memory(count, num_parameters(module) - count, weights, size, 2 * size, average)


def operations(work: Callable[[], Any]) -> int:
    """Floating-point operations of matrix products, convolutions and attention; a multiply-add is two."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


class Pieces:
    """The calls that a training step is made of, for one sample on the meta device, in the dtype of the weights.

    Args:
        model: built on the meta device.
        sizes: of its parts.
        load: what a step reads.
    """

    def __init__(self, model: MMIG, sizes: Sizes, load: Load = LARGEST) -> None:
        self.model, self.sizes, self.load = model, sizes, load
        self.dtype = model.vae.dtype
        self.latents = latent_shape(model.vae, sizes.resolution, sizes.resolution)

    def zeros(self, *shape: int, like: nn.Module | None = None, grad: bool = False) -> Tensor:
        """Zeros in the dtype of a part."""
        dtype = self.dtype if like is None else next(like.parameters()).dtype
        return torch.zeros(*shape, device="meta", dtype=dtype, requires_grad=grad)

    def mask(self, tokens: int) -> Tensor:
        """Which token attends to which, whole: transformers would look at the values of a shorter form."""
        return torch.ones(1, 1, tokens, tokens, device="meta", dtype=torch.bool)

    def text(self) -> Tensor:
        """The text encoders on one chunk."""
        model, length = self.model, self.sizes.text["max_position_embeddings"]
        states = model.text_encoder(torch.zeros(1, length, device="meta", dtype=torch.int64)).last_hidden_state
        if model.text_encoder_2 is None:
            return states
        ids = torch.zeros(1, model.reader.length, device="meta", dtype=torch.int64)
        return torch.cat([states.flatten(), model.text_encoder_2(ids).last_hidden_state.flatten()])

    def vision(self) -> Tensor:
        """CLIP's image tower up to the visual tokens."""
        mllm, side = self.model.mllm, self.sizes.vision["image_size"]
        tokens = class_tokens(mllm.vision, self.zeros(1, 3, side, side, like=mllm.vision), mllm.depths)
        return mllm.adapters["projector"](tokens)

    def llm(self, tokens: int, targets: int = 0, grad: bool = False) -> Tensor:
        """The LLM's decoder with adapters on some tokens, and its head on the last of them."""
        mllm = self.model.mllm
        embedded = self.zeros(1, tokens, self.sizes.llm["hidden_size"], like=mllm.llm, grad=grad)
        routing = {ROUTING: mllm.mixture_weights()[:1]}
        hidden = mllm.llm.get_decoder()(
            inputs_embeds=embedded, attention_mask=self.mask(tokens), use_cache=False, **routing
        ).last_hidden_state
        if targets == 0:
            return hidden
        return torch.cat([hidden.flatten(), mllm.llm.get_output_embeddings()(hidden[:, -targets:]).flatten()])

    def unet(self, grad: bool = False) -> Tensor:
        """One pass of the denoiser with MMSM; `grad`: e0 carries one to the LLM."""
        model = self.model
        response = round(self.load.response)
        states = self.zeros(1, response, self.sizes.llm["hidden_size"], like=model.mmsm, grad=grad)
        return model.denoise(
            self.zeros(1, *self.latents, like=model.unet),
            torch.zeros(1, device="meta", dtype=torch.int64),
            self._condition(),
            ResponseStates(states, torch.ones(1, response, device="meta", dtype=torch.bool)),
        )[0]

    def _condition(self) -> Conditioning:
        """What the denoiser reads of one text, and the source where it is shown one."""
        model, unet = self.model, self.model.unet
        shown = model.source_conditioning != "img2img"
        source = self.zeros(1, *self.latents, like=unet) if shown else None
        if not model.kind.reads_pooled:
            length, width = self.sizes.text["max_position_embeddings"], self.sizes.text["hidden_size"]
            return Conditioning(self.zeros(1, length, width, like=unet), image_latents=source)
        length, width = model.reader.length, unet.config.joint_attention_dim
        pooled = self.zeros(1, unet.config.pooled_projection_dim, like=unet)
        return Conditioning(self.zeros(1, length, width, like=unet), pooled=pooled, image_latents=source)

    def encoded(self) -> Tensor:
        """The autoencoder's encoder."""
        return encode(self.model.vae, self.zeros(1, 3, self.sizes.resolution, self.sizes.resolution))

    def decoded(self, grad: bool = False) -> Tensor:
        """The autoencoder's decoder."""
        return decode(self.model.vae, self.zeros(1, *self.latents, grad=grad))

    def caption(self, grad: bool = False) -> Tensor:
        """BLIP-2 from pixels to the logits of a caption."""
        blip2 = self.model.captioner.model
        seen = self.image_tower(grad)
        return self.opt(blip2.language_projection(self.qformer(seen).to(blip2.language_projection.weight.dtype)))

    def image_tower(self, grad: bool = False) -> Tensor:
        """BLIP-2's image tower (ViT-g)."""
        blip2, (height, width) = self.model.captioner.model, self.model.captioner.size
        return blip2.vision_model(self.zeros(1, 3, height, width, like=blip2.vision_model, grad=grad)).last_hidden_state

    def qformer(self, seen: Tensor) -> Tensor:
        """The Q-Former on an image's states."""
        blip2 = self.model.captioner.model
        queries = blip2.query_tokens
        return blip2.qformer(query_embeds=queries, encoder_hidden_states=seen.to(queries.dtype)).last_hidden_state

    def opt(self, queries: Tensor) -> Tensor:
        """BLIP-2's language model on the projected queries, a start token and a caption."""
        model = self.model.captioner.model.language_model
        embedding = model.get_input_embeddings().weight
        words = torch.zeros(1, round(self.load.caption), embedding.shape[1], device="meta", dtype=embedding.dtype)
        inputs = torch.cat([queries.to(embedding.dtype), words], dim=1)
        length = inputs.shape[1]
        places = torch.arange(length, device="meta")[None]
        return model(
            inputs_embeds=inputs, attention_mask=self.mask(length), position_ids=places, use_cache=False
        ).logits


def forward_operations(pieces: Pieces) -> dict[str, int]:
    """Operations of one forward of each part that a stage has, for one sample."""
    model = pieces.model
    parts: dict[str, Callable[[], Any]] = {
        f"LLM, {LLM_TOKENS} tokens": lambda: pieces.llm(LLM_TOKENS),
        "CLIP image tower": pieces.vision,
        "UNet with MMSM": pieces.unet,
        "text encoder": pieces.text,
        "VAE encoder": pieces.encoded,
        "VAE decoder": pieces.decoded,
    }
    if model.mllm.vision is None:
        del parts["CLIP image tower"]
    if model.captioner is not None:
        parts["BLIP-2 image tower"] = pieces.image_tower
        parts["BLIP-2 caption"] = pieces.caption
    with torch.no_grad():
        return {name: operations(part) for name, part in parts.items()}


def step_operations(stage: MMIGStage, pieces: Pieces, known: dict[tuple, int] | None = None) -> int:
    """Operations of one training step for one sample: every forward and backward pass, run on the meta device.

    Counted for the load of `pieces`: by default with the longest texts, and with an image for BLIP-2 in every row, as a
    batch of one has it. What gradient checkpointing computes again is not in it.

    Args:
        stage: built on the meta device.
        pieces: its calls.
        known: passes that were counted for a stage of the same sizes and load already; new ones are added.
    """
    terms, trained = stage.loss_weights, stage.trained_parts
    adapts, layered = "mllm.adapters" in trained, "fg" in terms or "bg" in terms
    known = {} if known is None else known

    def cost(name: str, work: Callable[[], Tensor], *, backward: bool = False, times: int = 1) -> int:
        key = (name, backward, adapts, name == "unet" and "unet" in trained)
        if key not in known:
            with torch.set_grad_enabled(backward):
                known[key] = operations(lambda: _backward(work()))
        return times * known[key]

    total = cost("encoded", pieces.encoded) + cost("text", pieces.text, times=3 if layered else 1)
    total += cost("unet", lambda: pieces.unet(adapts), backward=True, times=2 if layered else 1)  # forwards A and B
    if "as" in terms or "ar" in terms:
        total += cost("unet", pieces.unet)  # forward C
    targets = round(pieces.load.response) + 1 if "mmt" in terms else 0
    total += cost("llm", lambda: pieces.llm(round(pieces.load.llm), targets, grad=adapts), backward=adapts)
    if stage.mmig.mllm.vision is not None:
        total += cost("vision", pieces.vision, backward=adapts)
    if "blip2" in terms:
        seen = cost("decoded", lambda: pieces.decoded(grad=True), backward=True)
        seen += cost("caption", lambda: pieces.caption(grad=True), backward=True)
        total += round(pieces.load.captioned * seen)
    return total


def _backward(value: Tensor) -> None:
    if value.requires_grad:
        value.float().sum().backward()
