"""Stage 1: the mutual support module alone (the only stage that the paper trained)."""

from mmig.methods.mmig.stages.mmig_stage import MMIGStage


class Stage1(MMIGStage):
    """Trains MMSM between a frozen LLM, which sees text only, and a frozen denoiser.

    L_MMSM alone reaches neither the cross-attention nor the decoder of MMSM, whose outputs do not occur in eq 13, and
    it collapses both sides to a constant. So L_SDM counts too, with the denoiser frozen but differentiable.

    No condition is dropped for guidance: MMSM is inactive for unconditional rows, so they would train nothing.
    """

    trained_parts = ("mmsm",)
    counted_losses = ("mmsm", "sdm")
    strict_losses = ("mmsm",)
    new_parts = ("mmig.mmsm",)
