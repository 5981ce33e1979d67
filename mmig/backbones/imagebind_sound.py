"""Sounds as ImageBind's audio tower takes them: clips of two seconds, each a picture of log-mel features.

(Girdhar et al. 2023, section 4 and the released settings.) A sound counts by its true length: what a batch puts behind
it is in no clip, in no mean and in no frame.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from mmig.backbones.fbank import frame_samples, log_mel, num_frames


@dataclass(frozen=True)
class SoundSettings:
    """How sounds are cut and measured; the defaults are ImageBind's.

    Attributes:
        rate: samples a second of the sounds that are given (`audio_rate` of the data).
        num_clips: clips of a sound.
        clip_seconds: length of one.
        num_mel_bins, num_frames: of the features of one.
        mean, std: by which they are normalised.
    """

    rate: int = 16_000
    num_clips: int = 3
    clip_seconds: float = 2.0
    num_mel_bins: int = 128
    num_frames: int = 204
    mean: float = -4.268
    std: float = 9.138

    @property
    def clip_samples(self) -> int:
        """Samples of a whole clip."""
        return int(self.clip_seconds * self.rate)

    @property
    def padding(self) -> float:
        """Value of a frame behind the last one: 0 before normalisation, 0.4671 after ImageBind's."""
        return -self.mean / self.std


def clip_starts(samples: Tensor, settings: SoundSettings) -> Tensor:
    """First sample of each clip, int64 [N,S]: i (T - clip) / S seconds for i = 0 .. S-1 of a sound of T seconds.

    The divisor is the number of clips S, as in ImageBind: the last clip of a sound longer than a clip ends before the
    sound does. All clips of a shorter sound are the sound itself.

    Args:
        samples: true lengths, int64 [N].
    """
    spare = (samples - settings.clip_samples).clamp(min=0)
    return spare[:, None] * torch.arange(settings.num_clips, device=samples.device) // settings.num_clips


def sound_features(sounds: Tensor, samples: Tensor, settings: SoundSettings) -> Tensor:
    """Normalised log-mel features of the clips of each sound, float32 [N,S,num_mel_bins,num_frames].

    Of each clip the mean over its own samples is taken off first. Frames behind a sound's end have the value of
    `SoundSettings.padding`, as 198 to 203 of a whole clip have. Readings of what has no good one: silence is
    the floor of the filter bank in all of its frames; a sound shorter than a frame of 25 ms is repeated until it fills
    one; a length of 0, an empty slot of a batch, is a frame of silence.

    Args:
        sounds: float [N,n] in [-1,1] at `settings.rate`.
        samples: true lengths, int64 [N], at most n.

    Raises:
        ValueError: shapes that do not fit, or a length that is none.
    """
    if sounds.ndim != 2 or samples.shape != sounds.shape[:1]:
        found = f"{tuple(sounds.shape)} and {tuple(samples.shape)}"
        raise ValueError(f"sounds: expected values [N,n] with lengths [N], found shapes {found}")
    if samples.numel() and not 0 <= int(samples.min()) <= int(samples.max()) <= sounds.shape[1]:
        found = f"{int(samples.min())} to {int(samples.max())}"
        raise ValueError(f"sounds: expected lengths of 0 to {sounds.shape[1]} samples, found {found}")
    sounds, samples = _at_least_a_frame(sounds.float(), samples, frame_samples(settings.rate)[0])
    clips, lengths = _clips(sounds, samples, settings)
    features = log_mel(clips, settings.rate, settings.num_mel_bins).transpose(-1, -2)
    behind = torch.arange(features.shape[-1], device=sounds.device) >= num_frames(lengths, settings.rate)[:, None]
    features = features.masked_fill(behind[:, None, None], 0)
    features = pad(features, (0, settings.num_frames - features.shape[-1]))  # of a negative number it cuts
    return (features - settings.mean) / settings.std


def _at_least_a_frame(sounds: Tensor, samples: Tensor, frame: int) -> tuple[Tensor, Tensor]:
    """The same, with sounds shorter than a frame repeated until they fill one; nothing at all becomes zeros."""
    sounds, lengths = pad(sounds, (0, max(frame - sounds.shape[1], 0))), samples[:, None]
    first, rest = sounds[:, :frame], sounds[:, frame:]
    repeated = first.gather(1, torch.arange(frame, device=sounds.device) % lengths.clamp(min=1)).where(lengths > 0, 0)
    return torch.cat([torch.where(lengths < frame, repeated, first), rest], dim=1), samples.clamp(min=frame)


def _clips(sounds: Tensor, samples: Tensor, settings: SoundSettings) -> tuple[Tensor, Tensor]:
    """Clips [N,S,clip_samples] without their means, zeros behind the end of a sound, and their lengths [N]."""
    lengths = samples.clamp(max=settings.clip_samples)
    inside = torch.arange(settings.clip_samples, device=sounds.device)
    places = clip_starts(samples, settings)[..., None] + inside
    rows = torch.arange(len(sounds), device=sounds.device)[:, None, None]
    clips = sounds[rows, places.clamp(max=sounds.shape[1] - 1)]
    known = (inside < lengths[:, None])[:, None]
    clips = clips.where(known, 0)
    return (clips - clips.sum(-1, keepdim=True) / lengths[:, None, None]).where(known, 0), lengths
