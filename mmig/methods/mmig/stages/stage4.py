"""Stage 4: multimodal LLM, mutual support module and diffusion editing model together."""

from mmig.methods.mmig.stages.mmig_stage import MMIGStage


class Stage4(MMIGStage):
    """Trains adapters, MMSM and denoiser with L_MMT, L_DEM and L_MMSM."""

    trained_parts = ("mmsm", "mllm.adapters", "unet")
    counted_losses = ("mmt", "sdm", "as", "ar", "fg", "bg", "mmsm")
    strict_losses = counted_losses
