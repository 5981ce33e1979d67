"""The model of a pipeline's components: wired once, and again where one of them has been replaced. And the way back."""

from collections.abc import Mapping
from typing import Any

from mmig.methods.mmig.connectors import Connectors
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
        denoisers = [part for part in (components["unet"], components["transformer"]) if part is not None]
        if len(denoisers) != 1:
            found = "both" if denoisers else "none"
            raise ValueError(f"MMIGPipeline: expected one denoiser, unet or transformer, found {found}; give one")
        parts = Parts(
            denoisers[0],
            components["vae"],
            components["text_encoder"],
            components["tokenizer"],
            components["scheduler"],
            components["llm"],
            components["llm_tokenizer"],
            connectors.mmsm,
            components["vision"],
            connectors.join_captioner(components["captioner"], components["captioner_processor"]),
            components["text_encoder_2"],
            components["tokenizer_2"],
            connectors.connector,
        )
        objective = ObjectiveConfig(
            attention_resolution=tuple(config["attention_resolution"]),
            max_text_chunks=config["max_text_chunks"],
            noise_levels=config["noise_levels"],
            denoiser_text=config["denoiser_text"],
        )
        mllm = connectors.join_llm(components["llm"], components["llm_tokenizer"], components["vision"])
        wired = (*vars(parts).values(), mllm, config["source_conditioning"], objective)  # a part equals itself alone
        if self._model is None or wired != self._wired:
            self._model = MMIG(parts, config["source_conditioning"], mllm, objective)
            self._wired = wired
        return self._model


def components_of(model: MMIG) -> dict[str, Any]:
    """The components of a model's pipeline by name, sharing its weights."""
    mllm, captioner = model.mllm, model.captioner
    return {
        "transformer" if model.kind.reads_pooled else "unet": model.unet,
        "vae": model.vae,
        "text_encoder": model.text_encoder,
        "tokenizer": model.tokenizer,
        "text_encoder_2": model.text_encoder_2,
        "tokenizer_2": model.tokenizer_2,
        "scheduler": model.scheduler,
        "connectors": Connectors.of(model),
        "llm": mllm.llm,
        "llm_tokenizer": mllm.tokenizer,
        "vision": mllm.vision,
        "captioner": None if captioner is None else captioner.model,
        "captioner_processor": None if captioner is None else captioner.processor,
    }
