"""Stage 3: the mutual support module and the diffusion editing model."""

from mmig.methods.mmig.stages.mmig_stage import MMIGStage


class Stage3(MMIGStage):
    """Trains MMSM and the denoiser with L_DEM (eq 21) and L_MMSM; the multimodal LLM is frozen."""

    trained_parts = ("mmsm", "unet")
    counted_losses = ("sdm", "as", "ar", "fg", "bg", "mmsm")
    strict_losses = counted_losses
