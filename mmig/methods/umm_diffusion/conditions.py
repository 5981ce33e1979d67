"""The three conditions of UMM-Diffusion, drawn in training and fused in sampling (Ma et al. 2023, section 3.3)."""

from torch import Tensor


def condition_mix(uniform: Tensor, drop: float, subject_share: float) -> tuple[Tensor, Tensor]:
    """(no condition, h_u), bool [B] each, of one uniform draw a sample; where neither is, the condition is h_y.

    Args:
        uniform: in [0,1), [B].
        drop: samples without condition, 0.1 in the paper.
        subject_share: of the others, those with the subject, 0.6: 0.9 x 0.6 = 0.54, so that 0.9 x 0.4 = 0.36 are left.
    """
    nothing = uniform < drop
    return nothing, ~nothing & (uniform < drop + (1 - drop) * subject_share)


def fused_guidance(scale: float, fuse_ratio: float) -> dict[str, float]:
    """Weights of the predictions under h_u ("unified"), h_y ("text") and nothing ("null"); they sum to 1.

    Classifier-free guidance (eq 3) towards alpha eps_u + (1 - alpha) eps_y (eq 7).

    Args:
        scale: w. 1 leaves "null" out.
        fuse_ratio: alpha in [0, 1]. 0 draws by the text alone, 1 fuses nothing.
    """
    return {"unified": fuse_ratio * scale, "text": (1 - fuse_ratio) * scale, "null": 1 - scale}  # (8)
