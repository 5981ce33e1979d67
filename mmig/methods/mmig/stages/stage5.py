"""Stage 5: everything, end to end."""

from mmig.methods.mmig.stages.mmig_stage import MMIGStage


class Stage5(MMIGStage):
    """Trains what stage 4 trains and BLIP-2's connector, with all eight terms of L_Total (eq 22)."""

    trained_parts = ("mmsm", "mllm.adapters", "unet", "captioner")
    counted_losses = ("sdm", "as", "ar", "fg", "bg", "mmt", "blip2", "mmsm")
    strict_losses = counted_losses
