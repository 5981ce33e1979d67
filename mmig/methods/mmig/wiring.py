"""The model of a pipeline's components: wired once, and again where one of them has been replaced."""

from collections.abc import Mapping
from typing import Any

from mmig.methods.mmig.model import MMIG
from mmig.methods.mmig.objective import ObjectiveConfig
from mmig.methods.mmig.parts import Parts


class Wiring:
    """Remembers the model of the components that it saw last."""

    def __init__(self) -> None:
        self._model: MMIG | None = None
        self._wired: tuple[Any, ...] = ()

    def model(self, components: Mapping[str, Any], config: Mapping[str, Any]) -> MMIG:
        """The model of a pipeline's components and configuration, the same one as long as they are the same.

        Raises:
            ValueError: parts that do not fit each other.
        """
        connectors = components["connectors"]
        parts = Parts(
            components["unet"],
            components["vae"],
            components["text_encoder"],
            components["tokenizer"],
            components["scheduler"],
            components["llm"],
            components["llm_tokenizer"],
            connectors.mmsm,
            components["vision"],
            connectors.join_captioner(components["captioner"], components["captioner_processor"]),
        )
        objective = ObjectiveConfig(
            attention_resolution=tuple(config["attention_resolution"]), max_text_chunks=config["max_text_chunks"]
        )
        mllm = connectors.join_llm(components["llm"], components["llm_tokenizer"], components["vision"])
        wired = (*vars(parts).values(), mllm, config["source_conditioning"], objective)  # a part equals itself alone
        if self._model is None or wired != self._wired:
            self._model = MMIG(parts, config["source_conditioning"], mllm, objective)
            self._wired = wired
        return self._model
