"""Stage 2: the mutual support module and the multimodal LLM's adapters."""

from mmig.methods.mmig.stages.mmig_stage import MMIGStage


class Stage2(MMIGStage):
    """Trains MMSM and the mixture-of-modality adapters, with CLIP's tokens in the prompt; the denoiser is frozen.

    L_SDM counts as in stage 1, and reaches the adapters through e0.
    """

    trained_parts = ("mmsm", "mllm.adapters")
    counted_losses = ("mmt", "mmsm", "sdm")
    strict_losses = ("mmt", "mmsm")
    new_parts = ("mmig.mllm.adapters",)
