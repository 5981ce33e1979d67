"""What the steps of a stage really read, so that their operations can be counted as they were."""

from typing import Any

from torch import nn

from bench.stages.count import LARGEST, Load
from mmig.methods.mmig.stages.mmig_stage import MMIGStage

NAMES = ("llm", "response", "caption")


class Seen:
    """Watches a stage and sums up what goes into its language models and BLIP-2, for as long as the stage lives."""

    def __init__(self, stage: MMIGStage) -> None:
        model = stage.mmig
        self.lengths: dict[str, list[int]] = {}
        self.captioned = 0
        self.clear()
        self._queries = 0 if model.captioner is None else model.captioner.num_query_tokens
        model.mllm.llm.get_decoder().register_forward_pre_hook(self._llm, with_kwargs=True)
        for mmsm in model.mmsm.values():
            mmsm.register_forward_pre_hook(self._support)
        if model.captioner is not None:
            model.captioner.model.language_model.register_forward_pre_hook(self._writer, with_kwargs=True)

    def clear(self) -> None:
        """Begin anew."""
        self.lengths = {name: [] for name in NAMES}
        self.captioned = 0

    def load(self, samples: int) -> Load:
        """Means since the last `clear`, in which steps took so many samples; what never ran has the largest length."""
        means = {
            name: sum(found) / len(found) if found else getattr(LARGEST, name) for name, found in self.lengths.items()
        }
        return Load(**means, captioned=self.captioned / samples)

    def _llm(self, _module: nn.Module, _given: tuple, named: dict[str, Any]) -> None:
        self.lengths["llm"].append(named["inputs_embeds"].shape[1])

    def _support(self, _module: nn.Module, given: tuple) -> None:
        self.lengths["response"].append(given[1].shape[1])

    def _writer(self, _module: nn.Module, _given: tuple, named: dict[str, Any]) -> None:
        rows, length = named["inputs_embeds"].shape[:2]
        self.lengths["caption"].append(length - self._queries)
        self.captioned += rows
