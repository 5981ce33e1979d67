"""The five stages of the paper (section 3.5): which parts train, and which losses count. Declarations, no code."""

from mmig.methods.mmig.stages.mmig_stage import MMIGStage


class Stage1(MMIGStage):
    """Trains MMSM between a frozen LLM, which sees text only, and a frozen denoiser.

    L_MMSM alone reaches neither the cross-attention nor the decoder of MMSM, whose outputs do not occur in eq 13, and
    it collapses both sides to a constant. So L_SDM counts too, with the denoiser frozen but differentiable.

    No condition is dropped for guidance: MMSM is inactive for unconditional rows, so they would train nothing.
    """

    trained_parts = ("mmsm",)
    needed_fields = ("target",)
    counted_losses = ("mmsm", "sdm")
    strict_losses = ("mmsm",)
    new_parts = ("mmig.mmsm", "mmig.connector")


class Stage2(MMIGStage):
    """Trains MMSM and the mixture-of-modality adapters, with CLIP's tokens in the prompt; the denoiser is frozen.

    L_SDM counts as in stage 1, and reaches the adapters through e0.
    """

    trained_parts = ("mmsm", "mllm.adapters")
    counted_losses = ("mmt", "mmsm", "sdm")
    strict_losses = ("mmt", "mmsm")
    new_parts = ("mmig.mllm.adapters",)


class Stage3(MMIGStage):
    """Trains MMSM and the denoiser with L_DEM (eq 21) and L_MMSM; the multimodal LLM is frozen."""

    trained_parts = ("mmsm", "unet")
    needed_fields = ("target",)
    counted_losses = ("sdm", "as", "ar", "fg", "bg", "mmsm")
    strict_losses = counted_losses


class Stage4(MMIGStage):
    """Trains adapters, MMSM and denoiser with L_MMT, L_DEM and L_MMSM."""

    trained_parts = ("mmsm", "mllm.adapters", "unet")
    counted_losses = ("mmt", "sdm", "as", "ar", "fg", "bg", "mmsm")
    strict_losses = counted_losses


class Stage5(MMIGStage):
    """Trains what stage 4 trains and BLIP-2's Q-Former, with all eight terms of L_Total (eq 22)."""

    trained_parts = ("mmsm", "mllm.adapters", "unet", "captioner")
    counted_losses = ("sdm", "as", "ar", "fg", "bg", "mmt", "blip2", "mmsm")
    strict_losses = counted_losses
