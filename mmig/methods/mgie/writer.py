"""MGIE's language model: it writes what an instruction means for a picture, and behind that the [IMG] tokens.

The prompt asks what the picture would be like (Fu et al. 2024, section 3.1); the answer is the expressive instruction E
and the tokens [IMG0] ... [IMG7]. LGIE is the same without the picture: its prompt leaves the picture's place out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from mmig.backbones.mllm import PixelStatistics
from mmig.backbones.mllm_vision import vision_of
from mmig.evaluation.pictures import tower_pixels
from mmig.language.greedy import given_first, plain_generation
from mmig.language.late_tokens import states_with_late_gradient
from mmig.language.sequences import VISUAL_TOKEN, check_room, left_padded_ids, prompt_ids, teacher_forced_ids
from mmig.language.special_tokens import SpecialTokens, TrainedTables, states_at
from mmig.language.token_loss import TokenLoss, token_loss
from mmig.training.modes import evaluating

Rows = Literal["all", "new"]
PROMPT = "USER: what will this image be like if '{instruction}'\n{image} ASSISTANT:"
"""What the language model reads before E, with LLaVA's roles around the published question."""


@dataclass
class WriterConfig:
    """Settings of the language model; the defaults are the published ones.

    Attributes:
        num_image_tokens: N, how many [IMG] tokens there are.
        rows: "all" trains both of the language model's tables whole, as released; "new" the rows of the [IMG] tokens
            alone, which no weight decay can undo.
        prompt: with {instruction} and {image}. Without eyes {image} is left out, with the line break before it.
        max_length: longest prompt and answer in training, in tokens, those of the picture among them.
        image_size: pixels a side of the picture that it sees, for a model that takes any (Qwen-VL): the more, the more
            tokens. None where the image tower has one size (LLaVA).
        dtype: of the frozen weights.
        gradient_checkpointing: recompute the language model's activations in the backward.
    """

    num_image_tokens: int = 8
    rows: Rows = "all"
    prompt: str = PROMPT
    max_length: int = 512
    image_size: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        if self.num_image_tokens < 1:
            raise ValueError(f"language.num_image_tokens: expected at least 1, found {self.num_image_tokens}")
        if self.rows not in ("all", "new"):
            raise ValueError(f"language.rows: expected 'all' or 'new', found {self.rows!r}")
        if not all(self.prompt.count(place) == 1 for place in ("{instruction}", "{image}")):
            raise ValueError(
                f"language.prompt: expected {{instruction}} and {{image}} once each, found {self.prompt!r}"
            )


class Encoded(NamedTuple):
    """Prompts and answers of a batch as ids.

    Attributes:
        prompts: with `VISUAL_TOKEN` at the places of the picture's tokens.
        answers: ids of E, then those of the [IMG] tokens.
        whole: bool [B]; False where they do not fit and an empty text stands in their place, which may count nowhere.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    whole: Tensor


class Written(NamedTuple):
    """What the language model wrote.

    Attributes:
        ids: of each text E, without special tokens.
        forced: of each text, whether the [IMG] tokens did not follow by themselves.
    """

    ids: list[list[int]]
    forced: list[bool]


def question_ids(tokenizer: Any, instructions: Sequence[str], prompt: str, num_visual_tokens: int) -> list[list[int]]:
    """Ids of the prompts; what stands before and behind the picture is tokenised apart.

    Args:
        tokenizer: of the language model.
        instructions: X.
        prompt: see `WriterConfig`.
        num_visual_tokens: of the picture, each a `VISUAL_TOKEN`; 0 leaves its place out, with the line break before.
    """
    before, _, after = prompt.partition("{image}")
    if num_visual_tokens == 0:
        return prompt_ids(tokenizer, instructions, before.removesuffix("\n") + after)
    starts = prompt_ids(tokenizer, instructions, before)
    ends = tokenizer([after.format(instruction=text) for text in instructions], add_special_tokens=False)
    picture = [VISUAL_TOKEN] * num_visual_tokens
    return [start + picture + end for start, end in zip(starts, ends["input_ids"], strict=True)]


class InstructionWriter(nn.Module):
    """The language model and its [IMG] tokens, of which alone rows train; everything else stays frozen.

    Args:
        llm: of `mllm_vision.FAMILIES`; without eyes also a causal language model. Frozen by its loader.
        tokenizer: its tokenizer; gets the [IMG] tokens.
        statistics: of the pixels; None leaves the picture out (LGIE), the image tower does not run then.
        config: sizes and readings.

    Raises:
        ValueError: settings that do not fit the language model.
        BackboneError: a size of pictures that it does not take.
    """

    def __init__(self, llm: Any, tokenizer: Any, statistics: PixelStatistics | None, config: WriterConfig) -> None:
        super().__init__()
        self.llm, self.tokenizer, self.statistics, self.config = llm, tokenizer, statistics, config
        self.vision = None if statistics is None else vision_of(llm, config.image_size)
        texts = [f"[IMG{number}]" for number in range(config.num_image_tokens)]
        self.tokens = (TrainedTables if config.rows == "all" else SpecialTokens)(llm, tokenizer, texts)
        self.image_ids: list[int] = tokenizer.convert_tokens_to_ids(texts)
        self.context: int | None = getattr(llm.config.get_text_config(), "max_position_embeddings", None)
        bare = len(self.prompts([""])[0]) + len(self.image_ids)
        if self.context is not None and config.max_length > self.context:
            raise ValueError(
                f"language.max_length: expected at most the {self.context} positions that the language "
                f"model has, found {config.max_length}"
            )
        if config.max_length <= bare:
            raise ValueError(
                f"language.max_length: the prompt without an instruction and the [IMG] tokens take {bare} tokens, "
                f"expected more, found {config.max_length}"
            )

    @property
    def sees(self) -> bool:
        """Whether it is shown the picture."""
        return self.statistics is not None

    @property
    def num_visual_tokens(self) -> int:
        """Tokens of a picture."""
        return 0 if self.vision is None else self.vision.num_tokens

    def freeze_output(self) -> None:
        """Let the rows of the output layer rest, which nothing but L_ins reaches; tied ones go on training."""
        if not self.tokens.tied:
            self.tokens.output_parameter().requires_grad_(False)

    # Texts to ids ------------------------------------------------------------------------------------------------

    def prompts(self, instructions: Sequence[str]) -> list[list[int]]:
        """Ids of the prompts; what stands before and behind the picture is tokenised apart."""
        rows = question_ids(self.tokenizer, instructions, self.config.prompt, self.num_visual_tokens)
        return [self._plain(row) for row in rows]

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of expressive instructions, without special tokens."""
        return [self._plain(row) for row in self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def encode(self, instructions: Sequence[str], texts: Sequence[str]) -> Encoded:
        """Prompts and answers for training; what is longer than `max_length` has lost its [IMG] tokens."""
        prompts, answers = self.prompts(instructions), [row + self.image_ids for row in self.text_ids(texts)]
        whole = [len(p) + len(a) <= self.config.max_length for p, a in zip(prompts, answers, strict=True)]
        nothing = self.prompts([""])[0], self.image_ids
        rows = [pair if fits else nothing for *pair, fits in zip(prompts, answers, whole, strict=True)]
        return Encoded([prompt for prompt, _ in rows], [answer for _, answer in rows], torch.tensor(whole))

    def _plain(self, ids: list[int]) -> list[int]:
        """Without [IMG] tokens, which a text of the data may spell out: each stands once, behind E."""
        return [number for number in ids if number not in self.image_ids]

    # Forwards ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def visual_tokens(self, images: Tensor, has_image: Tensor | None = None) -> Tensor | None:
        """Tokens of pictures [B,K,W] for the language model, see `MLLMVision`; None without eyes.

        Args:
            images: float [B,3,H,W] in [-1,1], squashed to the tower's size.
            has_image: bool [B]; where False the tower is shown zeros.
        """
        if self.vision is None:
            return None
        size = self.vision.image_size
        pixels = tower_pixels(images.to(self.llm.device), (size, size), *self.statistics)
        if has_image is not None:
            pixels = pixels.where(has_image.to(pixels.device)[:, None, None, None], 0.0)
        return self.vision.tokens(pixels)

    def forward(self, encoded: Encoded, visual: Tensor | None) -> tuple[TokenLoss, Tensor]:
        """L_ins of E and the [IMG] tokens by next-token prediction, and the states h [B,N,D] that predict the latter.

        Args:
            encoded: prompts and answers.
            visual: tokens of the pictures, [B,K,W]; None without eyes.
        """
        batch = teacher_forced_ids(encoded.prompts, encoded.answers, encoded.answers)
        batch = type(batch)(*(value.to(self.llm.device) for value in batch))
        hidden = self._hidden(batch.ids, batch.attention, visual)
        near = hidden.gather(1, batch.places[..., None].expand(-1, -1, hidden.shape[-1]))
        loss = token_loss(self.llm.get_output_embeddings()(near), batch.targets)
        return loss, states_at(hidden, batch.ids, self.tokens.ids, predicting=True).states

    def states(self, encoded: Encoded, visual: Tensor | None) -> Tensor:
        """The states h of `forward` alone, [B,N,D]."""
        batch = teacher_forced_ids(encoded.prompts, encoded.answers, encoded.answers)
        ids, attention = batch.ids.to(self.llm.device), batch.attention.to(self.llm.device)
        return states_at(self._hidden(ids, attention, visual), ids, self.tokens.ids, predicting=True).states

    @torch.no_grad()
    def write(
        self, instructions: Sequence[str], visual: Tensor | None, max_new_tokens: int, no_repeat_ngram: int = 0
    ) -> Written:
        """Expressive instructions by greedy search, each up to its [IMG0], its end or the limit.

        Args:
            instructions: X.
            visual: as in `forward`.
            max_new_tokens: limit.
            no_repeat_ngram: length of token sequences that may not come twice in a text; 0 forbids none.

        Raises:
            ValueError: an instruction that leaves no room for an answer.
        """
        from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor

        prompts, end = self.prompts(instructions), self.tokenizer.eos_token_id
        self.check_room(instructions, prompts)
        ids, attention = (value.to(self.llm.device) for value in left_padded_ids(prompts))
        forbidden = [NoRepeatNGramLogitsProcessor(no_repeat_ngram)] if no_repeat_ngram else []  # of E, not the prompt
        told = self._decoder_inputs(ids, attention, visual)
        places = {name: told.pop(name) for name in ("position_ids",) if name in told}  # the search counts them on
        with evaluating(self.llm), plain_generation(self.llm), given_first(self.llm.get_decoder(), told):
            rows = self.llm.generate(
                inputs_embeds=self._embed(ids, visual),
                attention_mask=attention,
                **places,
                eos_token_id=[end, self.image_ids[0]],
                pad_token_id=end,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                logits_processor=LogitsProcessorList(forbidden),
            ).tolist()
        texts, forced = [], []
        for row, prompt in zip(rows, prompts, strict=True):
            written = _before(row, {end, self.image_ids[0]})
            text = self._plain(written)[: self.room(prompt)]
            texts.append(text)
            forced.append(row[len(written) : len(written) + 1] != self.image_ids[:1] or len(text) < len(written))
        return Written(texts, forced)

    def room(self, prompt: Sequence[int]) -> int | None:
        """Tokens that a text may have behind a prompt; None: any number."""
        return None if self.context is None else max(0, self.context - len(prompt) - len(self.image_ids))

    def check_room(self, instructions: Sequence[str], prompts: Sequence[Sequence[int]]) -> None:
        """Raise ValueError for the first instruction that leaves no room for an answer."""
        config = self.llm.config.get_text_config()
        check_room(config, instructions, prompts, [self.image_ids] * len(prompts))

    def _hidden(self, ids: Tensor, attention: Tensor, visual: Tensor | None) -> Tensor:
        """Last hidden states, [B,T,D]; where only the [IMG] tokens train, they alone have a gradient."""
        told = self._decoder_inputs(ids, attention, visual)
        embedded, decoder = self._embed(ids, visual), self.llm.get_decoder()
        if torch.is_grad_enabled() and self.config.rows == "new" and not self.config.gradient_checkpointing:
            starts = (ids == self.image_ids[0]).int().argmax(dim=1)
            return states_with_late_gradient(decoder, embedded, attention, starts, len(self.image_ids), told)
        return decoder(inputs_embeds=embedded, attention_mask=attention, use_cache=False, **told).last_hidden_state

    def _decoder_inputs(self, ids: Tensor, attention: Tensor, visual: Tensor | None) -> dict[str, Any]:
        """What the decoder is told of the pictures' places."""
        if self.vision is None or visual is None:
            return {}
        return self.vision.decoder_inputs(ids == VISUAL_TOKEN, attention, visual)

    def _embed(self, ids: Tensor, visual: Tensor | None) -> Tensor:
        """Input embeddings [B,T,D] with the pictures' tokens at their places."""
        embedded = self.llm.get_input_embeddings()(ids.clamp(min=0))
        if visual is None:
            return embedded
        slots = ids == VISUAL_TOKEN
        number = (slots.cumsum(dim=1) - 1).clamp(0, visual.shape[1] - 1)
        inserted = visual[..., : embedded.shape[-1]].to(embedded).gather(1, number[..., None].expand_as(embedded))
        return torch.where(slots[..., None], inserted, embedded)


def _before(row: list[int], ends: set[int]) -> list[int]:
    """What stands before the first of these tokens."""
    return row[: next((place for place, number in enumerate(row) if number in ends), len(row))]
