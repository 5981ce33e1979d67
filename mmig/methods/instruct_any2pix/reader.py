"""F_LLM: a language model that reads text with vectors in it, and says two vectors at [base] and [gen] (Li et al. 2023,
section 3.2).

Prompts have the roles of Vicuna around the instruction. The answer is [base], the caption of the result, [gen]; the
paper says that output tokens are predicted and gives none, the released code writes that caption between its tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from datamodules.schema import without_placeholders
from mmig.backbones.llm import load_llm, load_llm_tokenizer
from mmig.backbones.loading import Precision
from mmig.backbones.named import Origin, Source
from mmig.backbones.parts import LLM_TOKENIZER, Part
from mmig.language.greedy import plain_generation
from mmig.language.sequences import VISUAL_TOKEN, check_room, left_padded_ids, teacher_forced_ids
from mmig.language.special_tokens import SpecialTokens, TrainedTables, states_at
from mmig.language.token_loss import TokenLoss, token_loss
from mmig.methods.instruct_any2pix.projectors import lengthened
from mmig.methods.instruct_any2pix.slots import Pieces, Slot, slots_in
from mmig.training.modes import evaluating

LANGUAGE_PARTS = {
    "llm": Part("llm", "llm"),
    "llm_tokenizer": Part("llm_tokenizer", "llm", LLM_TOKENIZER.files, has_weights=False),
}
VECTOR_PROJECTORS = Part("vector_projectors", "vector_projectors", kind_key="_class_name", kinds=("VectorProjectors",))
BASE, GEN = "[base]", "[gen]"
PROMPT = "USER: {instruction} ASSISTANT:"
ANSWER = "{base}{caption}{gen}"


@dataclass
class ReaderConfig:
    """Settings of the language model.

    Attributes:
        prompt: with {instruction}.
        base_token, gen_token: texts of the two tokens.
        answer: with {base}, {gen} and, between or behind them, {caption}; left out, no caption is written.
        rows: "all" trains both tables of the language model whole, as in the paper ("input layers, output layers");
            "new" the rows of [base] and [gen] alone.
        max_length: longest prompt and answer in training, in tokens; a slot is one.
        hidden_dim: of P_enc and P_out; None is the language model's width, as released.
        vector_norm: length of vectors before P_enc; 1 as in the paper, 20 for the released weights.
        dtype: of the weights.
        gradient_checkpointing: recompute the language model's activations in the backward.
    """

    prompt: str = PROMPT
    base_token: str = BASE
    gen_token: str = GEN
    answer: str = ANSWER
    rows: Literal["all", "new"] = "all"
    max_length: int = 2048
    hidden_dim: int | None = None
    vector_norm: float = 1.0
    dtype: Precision = "float32"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError for a value that cannot be."""
        if self.prompt.count("{instruction}") != 1:
            raise ValueError(f"language.prompt: expected {{instruction}} once, found {self.prompt!r}")
        if any(self.answer.count(place) != 1 for place in ("{base}", "{gen}")) or self.answer.count("{caption}") > 1:
            raise ValueError(f"language.answer: expected {{base}} and {{gen}} once each, found {self.answer!r}")
        if self.rows not in ("all", "new"):
            raise ValueError(f"language.rows: expected 'all' or 'new', found {self.rows!r}")


class VectorProjectors(ModelMixin, ConfigMixin):
    """P_enc, from vectors to the language model's width, and P_out back; two layers each, as released.

    Args:
        embed_dim: D of the vectors.
        width: of the language model.
        hidden_dim: between the layers.
    """

    @register_to_config
    def __init__(self, embed_dim: int = 1024, width: int = 4096, hidden_dim: int = 4096) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(embed_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, width))
        self.leave = nn.Sequential(nn.Linear(width, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, embed_dim))


class Encoded(NamedTuple):
    """Prompts and answers of a batch as ids.

    Attributes:
        prompts: with `VISUAL_TOKEN` at slots.
        answers: [base], caption, [gen].
        slots: of each prompt, in their order.
        whole: bool [B]; False where they do not fit and an empty text stands in their place, which may count nowhere.
    """

    prompts: list[list[int]]
    answers: list[list[int]]
    slots: list[list[Slot]]
    whole: Tensor


class Read(NamedTuple):
    """What comes out of a teacher-forced forward: cross-entropy of the answers, H_base and H_gen [B,D], float32."""

    text: TokenLoss
    base: Tensor
    gen: Tensor


class Written(NamedTuple):
    """Captions of results as ids, and of each whether [gen] did not follow by itself."""

    ids: list[list[int]]
    forced: list[bool]


class InstructionReader(nn.Module):
    """The language model, its two tokens, P_enc and P_out.

    Args:
        llm: causal language model of transformers.
        tokenizer: its tokenizer; gets the tokens.
        embed_dim: D of the vectors.
        config: sizes and readings.

    Raises:
        ValueError: a longest length beyond the language model's.
    """

    def __init__(self, llm: Any, tokenizer: Any, embed_dim: int, config: ReaderConfig) -> None:
        super().__init__()
        self.llm, self.tokenizer, self.config = llm, tokenizer, config
        texts = [config.base_token, config.gen_token]
        self.tokens = (TrainedTables if config.rows == "all" else SpecialTokens)(llm, tokenizer, texts)
        self.base_id, self.gen_id = tokenizer.convert_tokens_to_ids(texts)
        whole = config.answer.replace("{base}", texts[0]).replace("{gen}", texts[1])
        before, self._writes, after = whole.partition("{caption}")
        self._before, self._after = (
            tokenizer(part, add_special_tokens=False)["input_ids"] if part else [] for part in (before, after)
        )
        width = llm.config.get_text_config().hidden_size
        self.projectors = VectorProjectors(embed_dim, width, config.hidden_dim or width)
        self.context: int | None = getattr(llm.config.get_text_config(), "max_position_embeddings", None)
        if self.context is not None and config.max_length > self.context:
            raise ValueError(
                f"language.max_length: expected at most the {self.context} positions that the language model has, "
                f"found {config.max_length}"
            )

    # Texts to ids ------------------------------------------------------------------------------------------------

    def prompt_ids(self, rows: Sequence[Pieces]) -> list[list[int]]:
        """Ids of the prompts, each piece tokenised apart."""
        before, _, after = self.config.prompt.partition("{instruction}")
        begin = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        found = []
        for pieces in rows:
            ids = list(begin)
            for piece in (before, *pieces, after):
                ids += [VISUAL_TOKEN] if isinstance(piece, Slot) else self.text_ids(piece)
            found.append(ids)
        return found

    def text_ids(self, text: str) -> list[int]:
        """Ids of a text without special tokens, those that it spells out among them."""
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [number for number in ids if number not in (self.base_id, self.gen_id)]

    def caption_ids(self, caption: str) -> list[int]:
        """Ids of a caption, whose placeholders are left out."""
        return self.text_ids(without_placeholders(caption))

    def answer_ids(self, caption: list[int]) -> list[int]:
        """Ids of an answer; where captions are not part of it, the caption is left out."""
        return [*self._before, *(caption if self._writes else ()), *self._after]

    def encode(self, rows: Sequence[Pieces], captions: Sequence[str]) -> Encoded:
        """Prompts and answers for training; what is longer than `max_length` has no whole answer."""
        return self.with_answers(rows, list(map(self.caption_ids, captions)), self.config.max_length)

    def with_answers(
        self, rows: Sequence[Pieces], captions: Sequence[list[int]], longest: int | None = None
    ) -> Encoded:
        """Prompts, and answers of captions that are ids already."""
        prompts, slots = self.prompt_ids(rows), [slots_in(pieces) for pieces in rows]
        answers = [self.answer_ids(ids) for ids in captions]
        whole = [longest is None or len(p) + len(a) <= longest for p, a in zip(prompts, answers, strict=True)]
        for row, fits in enumerate(whole):
            if not fits:
                prompts[row], answers[row], slots[row] = self.prompt_ids([[]])[0], self.answer_ids([]), []
        return Encoded(prompts, answers, slots, torch.tensor(whole))

    # Forwards ----------------------------------------------------------------------------------------------------

    def forward(self, encoded: Encoded, vectors: Tensor) -> Read:
        """One teacher-forced pass.

        Args:
            encoded: prompts and answers.
            vectors: of their slots, [B,S,D] with S the most slots of a prompt, at least 1.
        """
        end = self.tokenizer.eos_token_id
        batch = teacher_forced_ids(encoded.prompts, encoded.answers, [[*answer, end] for answer in encoded.answers])
        batch = type(batch)(*(value.to(self.llm.device) for value in batch))
        embedded = self.embed(batch.ids, vectors)
        decoder = self.llm.get_decoder()
        hidden = decoder(inputs_embeds=embedded, attention_mask=batch.attention, use_cache=False).last_hidden_state
        near = hidden.gather(1, batch.places[..., None].expand(-1, -1, hidden.shape[-1]))
        text = token_loss(self.llm.get_output_embeddings()(near), batch.targets)
        states = states_at(hidden, batch.ids, self.tokens.ids).states
        weight = self.projectors.leave[0].weight
        found = self.projectors.leave(states.to(weight.dtype)).float()
        return Read(text, found[:, 0], found[:, 1])

    def embed(self, ids: Tensor, vectors: Tensor) -> Tensor:
        """E(T) with P_enc(H_i) at the slots and nowhere else, [B,T,W].

        Args:
            ids: int64 [B,T] with `VISUAL_TOKEN` at slots.
            vectors: of the slots in their order, [B,S,D].
        """
        embedded = self.llm.get_input_embeddings()(ids.clamp(min=0))
        slots = ids == VISUAL_TOKEN
        given = lengthened(vectors, self.config.vector_norm, self.projectors.enter[0].weight.dtype)
        entered = self.projectors.enter(given.to(ids.device)).to(embedded.dtype)
        number = (slots.cumsum(dim=1) - 1).clamp(0, vectors.shape[1] - 1)
        return torch.where(slots[..., None], entered.gather(1, number[..., None].expand_as(embedded)), embedded)

    @torch.no_grad()
    def write(self, rows: Sequence[Pieces], vectors: Tensor, max_new_tokens: int) -> Written:
        """Captions of results by greedy search, each up to what follows a caption, the end, or the limit.

        Args:
            rows: instructions.
            vectors: of their slots.
            max_new_tokens: limit.

        Raises:
            ValueError: an instruction that leaves no room for an answer.
        """
        prompts = [[*ids, *self._before] for ids in self.prompt_ids(rows)]
        self.check_room(rows, prompts)
        if not self._writes:
            return Written([[] for _ in rows], [False] * len(prompts))
        stops = {self.tokenizer.eos_token_id, *self._after[:1]}
        ids, attention = (value.to(self.llm.device) for value in left_padded_ids(prompts))
        with evaluating(self.llm), plain_generation(self.llm):
            found = self.llm.generate(
                inputs_embeds=self.embed(ids, vectors),
                attention_mask=attention,
                eos_token_id=sorted(stops),
                pad_token_id=self.tokenizer.eos_token_id,
                do_sample=False,
                max_new_tokens=max_new_tokens,
            ).tolist()
        texts, forced = [], []
        for row, prompt in zip(found, prompts, strict=True):
            stop = next((place for place, one in enumerate(row) if one in stops), len(row))
            room = None if self.context is None else self.context - len(prompt) - len(self._after)
            text = [one for one in row[:stop] if one not in (self.base_id, self.gen_id)][:room]
            texts.append(text)
            forced.append(row[stop : stop + 1] != self._after[:1] or len(text) < stop)
        return Written(texts, forced)

    def room(self, prompt: Sequence[int]) -> int | None:
        """Tokens that a caption may have behind a prompt; None: any number."""
        return None if self.context is None else max(0, self.context - len(prompt) - len(self.answer_ids([])))

    def check_room(self, rows: Sequence[Pieces], prompts: Sequence[Sequence[int]]) -> None:
        """Raise ValueError for the first instruction that leaves no room for an answer."""
        texts = ["".join(piece for piece in pieces if isinstance(piece, str)) for pieces in rows]
        check_room(self.llm.config.get_text_config(), texts, prompts, [self._after] * len(prompts))


def load_reader(llm: Source, tokenizer: Source, embed_dim: int, config: ReaderConfig) -> InstructionReader:
    """A language model from a hub id or folder with fresh projectors; frozen but for what trains of its tables.

    Raises:
        BackboneError: a part is missing or broken.
        ValueError: settings that do not fit it.
    """
    model_source = llm if isinstance(llm, Origin) else Origin(str(llm), LANGUAGE_PARTS["llm"])
    words = tokenizer if isinstance(tokenizer, Origin) else Origin(str(tokenizer), LANGUAGE_PARTS["llm_tokenizer"])
    model = load_llm(model_source, dtype=config.dtype, gradient_checkpointing=config.gradient_checkpointing)
    return InstructionReader(model, load_llm_tokenizer(words), embed_dim, config)
