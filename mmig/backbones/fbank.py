"""Kaldi's log-mel filter bank as pure functions of tensors, with the settings that ImageBind gives it (Girdhar et al.
2023, section 4): frames of 25 ms every 10 ms, Hann window, no dither, no energy, HTK's mel scale.
"""

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

FRAME_SECONDS, SHIFT_SECONDS = 0.025, 0.010
PREEMPHASIS = 0.97
LOWEST_HERTZ = 20.0
"""Lower end of the first filter; the last one ends at half the rate."""
FLOOR = torch.finfo(torch.float32).eps
"""Least energy of which a logarithm is taken: -15.94 in every bin of a silent frame."""


def log_mel(sounds: Tensor, rate: int, num_bins: int) -> Tensor:
    """Log energies of mel filters, float32 [...,F,num_bins], of the F frames that lie in the sound whole.

    At narrow filters and a short transform (128 and 512) one of them holds no frequency; it stays at the floor, as in
    Kaldi's own features.

    Args:
        sounds: [...,n], at least one frame long (see `num_frames`). rate: samples a second.
        num_bins: filters between 20 Hz and half the rate.
    """
    frame, shift = frame_samples(rate)
    with torch.autocast(sounds.device.type, enabled=False):
        frames = sounds.float().unfold(-1, frame, shift)
        frames = frames - frames.mean(-1, keepdim=True)
        frames = frames - PREEMPHASIS * torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        frames = frames * torch.hann_window(frame, periodic=False, device=sounds.device)
        transform = _transform_size(frame)
        power = torch.fft.rfft(pad(frames, (0, transform - frame))).abs().square()
        filters = mel_filters(rate, transform, num_bins).to(sounds.device)
        return (power @ filters).clamp(min=FLOOR).log()


def frame_samples(rate: int) -> tuple[int, int]:
    """Samples of a frame, and from the beginning of one to that of the next."""
    return int(rate * FRAME_SECONDS), int(rate * SHIFT_SECONDS)


def num_frames(samples: Tensor, rate: int) -> Tensor:
    """Whole frames in so many samples, int64 of the same shape; 0 where not even one fits (Kaldi's snip_edges)."""
    frame, shift = frame_samples(rate)
    return torch.where(samples < frame, 0, 1 + (samples - frame) // shift)


@cache
def mel_filters(rate: int, transform: int, num_bins: int) -> Tensor:
    """Triangles of height 1 on the mel scale over a spectrum, float32 [transform // 2 + 1, num_bins].

    Mel of f Hz: 1127 ln(1 + f / 700). The highest frequency, half the rate, is in no filter.
    """
    hertz = torch.arange(transform // 2 + 1, dtype=torch.float64) * rate / transform
    low, high = _mel(torch.tensor([LOWEST_HERTZ, rate / 2], dtype=torch.float64))
    edges = low + (high - low) / (num_bins + 1) * torch.arange(num_bins + 2, dtype=torch.float64)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    mel = _mel(hertz)[:, None]
    filters = torch.minimum((mel - left) / (centre - left), (right - mel) / (right - centre)).clamp(min=0)
    filters[-1] = 0
    return filters.float()


def _mel(hertz: Tensor) -> Tensor:
    return 1127.0 * (1.0 + hertz / 700.0).log()


def _transform_size(frame: int) -> int:
    """The next power of two, up to which a frame is filled with zeros."""
    return 1 << (frame - 1).bit_length()
