"""What MMIG's frozen parts make of a batch: beside latents and texts also what its multimodal LLM makes of it."""

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from datamodules.schema import Batch
from mmig.cache.frozen import CachedFeature, image, mask_of, up_to
from mmig.cache.latent import LatentFeatures
from mmig.language.sequences import ResponseStates, response_ids

if TYPE_CHECKING:
    from mmig.methods.mmig.llm.multimodal import MultimodalLLM


class MMIGFeatures(LatentFeatures):
    """Features of a model that has a `MultimodalLLM` as `mllm` beside the parts of a pipeline.

    What e0 and the visual tokens depend on is in `mmig.methods.mmig.llm.facts`.
    """

    _model: Any

    def of_states(self) -> CachedFeature:
        """`llm.states`: e0 of the given responses, [n,D] for n tokens, to declare while the LLM is frozen."""
        depends = (
            *("llm", "llm_tokenizer", "adapters", "multimodal", "prompt_template", "image_prompt_template"),
            *("max_response_tokens", "clip_vision", "dtype"),
        )
        return CachedFeature("llm.states", self._rows_of_states, depends, self._sees_images)

    def of_visual_tokens(self) -> CachedFeature:
        """`llm.visual_tokens`: the source image as the LLM sees it, [K,D], to declare while the adapters are frozen."""
        depends = ("clip_vision", "adapters", "multimodal", "dtype")
        return CachedFeature("llm.visual_tokens", self._rows_of_visual_tokens, depends, True)

    def states(self, batch: Batch, has_image: Tensor | None) -> ResponseStates:
        """e0 of the given responses.

        Args:
            batch: with instructions and responses.
            has_image: bool [B], whose source images the LLM sees; None where it sees none.
        """
        mllm = self._mllm
        if (stored := self.stored("llm.states", batch)) is not None:
            values, rows = stored
            if values.shape[1] == 0:  # no sample has a response
                values = F.pad(values, (0, 0, 0, 1))
            return ResponseStates(values.to(mllm.llm.device, mllm.llm.dtype), mask_of(rows, values.shape[1]))
        ids = response_ids(mllm.tokenizer, batch["response"], mllm.config.max_response_tokens)
        images = None if has_image is None else self.seen_images(batch)
        return mllm.states_of_ids(batch["instruction"], ids, images, has_image)

    def seen_images(self, batch: Batch) -> Tensor:
        """What the multimodal LLM is shown: visual tokens [B,K,D] where they are cached, else images [B,3,H,W]."""
        stored = self.stored("llm.visual_tokens", batch)
        return image(batch, "source") if stored is None else stored[0]

    def _rows_of_states(self, batch: Batch) -> list[Tensor]:
        return up_to(*self.states(batch, batch["has_source"] if self._sees_images else None))

    def _rows_of_visual_tokens(self, batch: Batch) -> list[Tensor]:
        return list(self._mllm.visual_tokens(self.seen_images(batch), batch["has_source"]))

    @property
    def _mllm(self) -> "MultimodalLLM":
        return self._model.mllm

    @property
    def _sees_images(self) -> bool:
        return self._mllm.vision is not None
