"""The multimodal LLM (eq 1, 6-8): a frozen LLM and CLIP tower with mixture-of-modality adapters (LaVIN).

One teacher-forced forward gives L_MMT and e0; `generate` writes the response z_d from the same prompts, and the same
forward gives e0 of the generated ids. Text-only and text-image samples stand in one batch.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmig.language.greedy import plain_generation
from mmig.language.sequences import (
    EncodedResponses,
    ResponseStates,
    check_room,
    encode_responses,
    left_padded_ids,
    mixed_prompt_ids,
    teacher_forced_ids,
    until_end,
)
from mmig.language.token_loss import TokenLoss, token_loss
from mmig.methods.mmig.llm.adapter_hooks import (
    ROUTING,
    attach,
    attention_width,
    llm_layers,
    routed,
    stacked_weights,
    vision_blocks,
)
from mmig.methods.mmig.llm.adapters import MMAdapter
from mmig.methods.mmig.llm.config import MultimodalConfig
from mmig.methods.mmig.llm.visual_tokens import VisualProjector, class_tokens, depths, preprocess
from mmig.training.modes import evaluating

Modality = Literal["text", "image"]
MODALITIES: tuple[Modality, Modality] = ("text", "image")
"""Rows of the modality embedding E_m: text-only and text-image samples."""


def build_adapters(
    config: MultimodalConfig, llm_layers: int, llm_dim: int, vision_blocks: int = 0, vision_dim: int = 0
) -> nn.ModuleDict:
    """Fresh `MultimodalLLM.adapters` for an LLM and, with blocks, a vision tower of these sizes."""
    options = (config.rank, config.groups, config.temperature, config.scale, config.dropout)

    def stack(count: int, width: int) -> nn.ModuleList:
        return nn.ModuleList([MMAdapter(width, *options) for _ in range(count)])

    adapters = nn.ModuleDict({"llm": stack(llm_layers, llm_dim), "modality": nn.Embedding(len(MODALITIES), llm_dim)})
    if vision_blocks:
        adapters["vision"] = stack(vision_blocks, vision_dim)
        adapters["projector"] = VisualProjector(vision_dim, llm_dim, config.projector_dim)
    return adapters


class MultimodalOutput(NamedTuple):
    """What one teacher-forced forward gives.

    Attributes:
        loss_sums: -log p of each sample's response and end token (eq 8), float32 [B]; 0 without a response.
        token_counts: tokens in each sum, float32 [B]. Their ratio over a whole batch is L_MMT (eq 7).
        states: e0 with its mask.
    """

    loss_sums: Tensor
    token_counts: Tensor
    states: ResponseStates

    @property
    def losses(self) -> Tensor:
        """Mean over each sample's tokens, float32 [B]; 0 without a response."""
        return TokenLoss(self.loss_sums, self.token_counts).values


class MultimodalLLM(nn.Module):
    """LLM, CLIP tower and what joins them. `adapters` holds everything that eq 7 trains, and nothing else.

    `adapters` has "llm" (one MMAdapter a layer), "modality" (E_m) and, with a tower, "vision" (one a block) and
    "projector": 3,781,296 parameters for LLaMA-7B with ViT-L/14. Fresh adapters change nothing.
    The LLM called by itself runs without adapters.

    Args:
        llm: causal language model of transformers, LLaMA-shaped; frozen by its loader.
        tokenizer: its tokenizer.
        vision: CLIPVisionModel of transformers; None for text only.
        config: sizes and readings.

    Raises:
        ValueError: a model of another shape, or a value out of range.
    """

    def __init__(
        self, llm: Any, tokenizer: Any, vision: Any | None = None, config: MultimodalConfig | None = None
    ) -> None:
        super().__init__()
        self.config = config = config or MultimodalConfig()
        if config.route_from not in ("embedding", "hidden"):
            raise ValueError(f"route_from: expected 'embedding' or 'hidden', found {config.route_from!r}")
        if config.max_response_tokens < 1:
            raise ValueError(f"max_response_tokens: expected at least 1, found {config.max_response_tokens}")
        self.llm, self.tokenizer, self.vision = llm, tokenizer, vision
        layers, blocks = llm_layers(llm), None if vision is None else vision_blocks(vision)
        sizes = (len(layers), attention_width(layers))
        self.adapters = build_adapters(config, *sizes, *((len(blocks), attention_width(blocks)) if blocks else ()))
        attach(self.adapters["llm"], layers)
        if blocks is not None:
            self.depths = depths(len(blocks), config.num_visual_tokens)
            attach(self.adapters["vision"], blocks, by_first_token=True)

    # Training ----------------------------------------------------------------------------------------------------

    def forward(
        self,
        instructions: Sequence[str],
        responses: Sequence[str] | EncodedResponses,
        images: Tensor | None = None,
        has_image: Tensor | None = None,
    ) -> MultimodalOutput:
        """Response loss (eq 7, 8) and e0 of given responses, by one teacher-forced forward.

        Args:
            instructions: w.
            responses: R, or `encode` of them; an empty one counts in no loss and gets a row of e0 without valid tokens.
            images: x, [B,3,H,W] in [-1,1], or their visual tokens; None where all samples are text only.
            has_image: bool [B], False for rows of `images` without meaning; default: all True.

        Raises:
            ValueError: lengths that differ, or images without a vision tower.
        """
        encoded = responses if isinstance(responses, EncodedResponses) else self.encode(responses)
        hidden, states, targets = self._teacher_forced(instructions, encoded, images, has_image)
        loss = token_loss(self.llm.get_output_embeddings()(hidden), targets)  # (7), (8)
        return MultimodalOutput(*loss, states)

    def encode(self, responses: Sequence[str]) -> EncodedResponses:
        """Ids of responses for teacher forcing; the lengths of their targets are `MultimodalOutput.token_counts`."""
        return encode_responses(self.tokenizer, responses, self.config.max_response_tokens)

    def states_of_ids(
        self,
        instructions: Sequence[str],
        responses: Sequence[list[int]],
        images: Tensor | None = None,
        has_image: Tensor | None = None,
    ) -> ResponseStates:
        """e0 of responses that are ids already, as `generate` gives them; arguments and errors as in `forward`."""
        encoded = EncodedResponses(list(responses), [[] for _ in responses])
        return self._teacher_forced(instructions, encoded, images, has_image)[1]

    def _teacher_forced(
        self, instructions: Sequence[str], encoded: EncodedResponses, images: Tensor | None, has_image: Tensor | None
    ) -> tuple[Tensor, ResponseStates, Tensor]:
        """States from each prompt's last token on [B,L+1,D], e0, and the targets [B,L+1] at these states."""
        if len(encoded.ids) != len(instructions):
            raise ValueError(
                f"responses: expected one for each of {len(instructions)} instructions, found {len(encoded.ids)}"
            )
        prompts, visual, weights = self._read(instructions, images, has_image, encoded.ids)
        batch = teacher_forced_ids(prompts, *encoded)
        batch = type(batch)(*(value.to(self.llm.device) for value in batch))
        hidden = self.llm.get_decoder()(
            inputs_embeds=self._embed(batch.ids, visual),
            attention_mask=batch.attention,
            use_cache=False,
            **{ROUTING: weights},
        ).last_hidden_state
        hidden = hidden.gather(1, batch.places[..., None].expand(-1, -1, hidden.shape[-1]))
        return hidden, ResponseStates(hidden[:, 1:] * batch.mask[..., None], batch.mask), batch.targets

    # Generation --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        instructions: Sequence[str],
        images: Tensor | None = None,
        has_image: Tensor | None = None,
    ) -> list[list[int]]:
        """Responses z_d (eq 1), as ids without the end token; greedy, of at most `max_response_tokens`.

        What the checkpoint's own generation_config says does not count: greedy is the argmax of `forward`.

        Args:
            instructions: w.
            images: x, [B,3,H,W] in [-1,1], or None.
            has_image: bool [B]; default: all True.

        Raises:
            ValueError: as in `forward`.
        """
        end = self.tokenizer.eos_token_id
        with evaluating(self):
            prompts, visual, weights = self._read(instructions, images, has_image, [[]] * len(instructions))
            ids, attention = (value.to(self.llm.device) for value in left_padded_ids(prompts))
            with routed(self.llm.get_decoder(), weights), plain_generation(self.llm):
                output = self.llm.generate(
                    inputs_embeds=self._embed(ids, visual),
                    attention_mask=attention,
                    eos_token_id=end,
                    pad_token_id=end,
                    do_sample=False,
                    max_new_tokens=self.config.max_response_tokens,
                )
        return until_end(output, end)

    def decode(self, responses: Sequence[list[int]]) -> list[str]:
        """Texts of generated ids, without special tokens and outer spaces."""
        return [text.strip() for text in self.tokenizer.batch_decode(list(responses), skip_special_tokens=True)]

    # What both share ---------------------------------------------------------------------------------------------

    def _read(
        self,
        instructions: Sequence[str],
        images: Tensor | None,
        has_image: Tensor | None,
        responses: Sequence[list[int]],
    ) -> tuple[list[list[int]], Tensor | None, Tensor]:
        """Prompts, visual tokens [B,K,D] (None without a tower) and mixture weights [B,layers,2] of a batch."""
        count, device = len(instructions), self.llm.device
        if has_image is None:
            has_image = torch.full((count,), images is not None)
        if count == 0 or has_image.shape != (count,) or (images is not None and len(images) != count):
            found = f"has_image {tuple(has_image.shape)}, images {None if images is None else tuple(images.shape)}"
            raise ValueError(f"a batch of {count} instructions: expected as many images and has_image, found {found}")
        seen = has_image.bool().tolist()
        if any(seen) and (images is None or self.vision is None):
            missing = "images are None" if images is None else "there is no vision tower; give one, or no images"
            raise ValueError(f"has_image: {sum(seen)} samples have an image, but {missing}")
        prompts = self.prompts(instructions, seen)
        check_room(self.llm.config, instructions, prompts, responses)
        visual = None if self.vision is None else self.visual_tokens(images, has_image)
        return prompts, visual, self.mixture_weights()[has_image.to(device, torch.int64)]

    def prompts(self, instructions: Sequence[str], seen: Sequence[bool]) -> list[list[int]]:
        """Ids of the prompts, `seen` saying which have places of visual tokens; see `mixed_prompt_ids`."""
        config = self.config
        templates = config.prompt_template, config.image_prompt_template
        return mixed_prompt_ids(self.tokenizer, instructions, seen, config.num_visual_tokens, *templates)

    def visual_tokens(self, images: Tensor | None, has_image: Tensor) -> Tensor:
        """Visual tokens [B,K,D] of a batch; a row without image shows the tower zeros.

        The tower runs for text-only samples too: under a sharded strategy every rank calls every module. Visual tokens
        in place of images are taken as they are.
        """
        if images is not None and images.ndim == 3:
            return images.to(self.llm.device)
        device, size = self.llm.device, self.vision.config.image_size
        if images is None:
            pixels = torch.zeros(len(has_image), 3, size, size, device=device)
        else:
            pixels = preprocess(images.to(device), size, self.config.image_statistics)
            pixels = pixels.where(has_image.to(device).bool()[:, None, None, None], 0.0)
        return self.adapters["projector"](class_tokens(self.vision, pixels, self.depths))

    def mixture_weights(self) -> Tensor:
        """Weights of the LLM's adapters for both modalities, float32 [2,layers,2] (eq 6).

        They depend on the modality alone. With "hidden" routing the embedding t_m runs through the LLM as a sequence of
        its own: it is what position 0 of the reference's sequence does, which attends to itself only and which no other
        position attends to (rotary positions are relative, so that the text may start at 0 too).
        """
        embeddings = self.adapters["modality"](torch.arange(len(MODALITIES), device=self.llm.device))
        if self.config.route_from == "embedding":
            return stacked_weights(self.adapters["llm"], embeddings)
        found: dict[int, Tensor] = {}
        self.llm.get_decoder()(
            inputs_embeds=embeddings[:, None].to(self.llm.dtype), use_cache=False, **{ROUTING: found}
        )
        return torch.stack([found[layer] for layer in range(len(self.adapters["llm"]))], dim=1)

    def _embed(self, ids: Tensor, visual: Tensor | None) -> Tensor:
        """Input embeddings [B,T,D] with the visual tokens at their places.

        By selection, not by indexing: the visual tokens stay in the graph where no sample shows them.
        """
        embedded = self.llm.get_input_embeddings()(ids.clamp(min=0))
        if visual is None:
            return embedded
        slots = ids < 0
        number = (slots.cumsum(dim=1) - 1).clamp(0, visual.shape[1] - 1)
        inserted = visual.to(embedded.dtype).gather(1, number[..., None].expand_as(embedded))
        return torch.where(slots[..., None], inserted, embedded)
