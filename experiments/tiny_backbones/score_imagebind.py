"""Measure the exported ImageBind on held-out samples of the world of sounds.

Called by `score`. Captions find their pictures as a CLIP's do; sounds are asked for the word that they stand for, among
the words of all voices, and for a picture that shows it.
"""

from collections.abc import Iterable
from pathlib import Path

import torch

from datamodules.schema import Batch
from datamodules.tinyworld.sounds import VOICES
from experiments.tiny_backbones.imagebind_meanings import shows
from experiments.tiny_backbones.scoring import GROUP, Scores, retrieval
from mmig.backbones.imagebind import load_imagebind, load_imagebind_tokenizer, text_ids


@torch.no_grad()
def score_imagebind(folder: Path, batches: Iterable[Batch]) -> Scores:
    """Shares of right nearest neighbours by cosine.

    - image_to_text, text_to_image: see `retrieval`, of the targets with their captions;
    - sound_to_word: of sounds, the word among those of all voices; chance is 1 / words;
    - sound_to_image: of sounds, a target of its group of at most 100 that shows what the sound stands for;
      sound_to_image_chance: of a picture taken by lot.
    """
    encoder, tokenizer = load_imagebind(folder), load_imagebind_tokenizer(folder)
    images, texts, sounds, captions, names, scenes = [], [], [], [], [], []
    for batch in batches:
        images.append(encoder.embed_images(batch["target"]))
        texts.append(encoder.embed_texts(text_ids(tokenizer, batch["target_caption"])))
        heard = batch["attachment_audio"][:, 0], batch["attachment_audio_samples"][:, 0]
        sounds.append(encoder.embed_sounds(*heard))
        captions += batch["target_caption"]
        names += [known["sound"] for known in batch["metadata"]]
        scenes += [known["target_scene"] for known in batch["metadata"]]
    pictures, voices = torch.cat(images), torch.cat(sounds)
    words = encoder.embed_texts(text_ids(tokenizer, list(VOICES)))
    own = torch.tensor([list(VOICES).index(name) for name in names])
    shown, right = shows(scenes, names), []
    for group in (slice(start, start + GROUP) for start in range(0, len(names), GROUP)):
        nearest = (voices[group] @ pictures[group].T).argmax(1)
        right.append(shown[group, group][torch.arange(len(nearest)), nearest])
    chance = torch.cat(
        [shown[start : start + GROUP, start : start + GROUP].float().mean(1) for start in range(0, len(names), GROUP)]
    )
    return retrieval(pictures, torch.cat(texts), captions) | {
        "sound_to_word": ((voices @ words.T).argmax(1) == own).float().mean().item(),
        "words": float(len(VOICES)),
        "sound_to_image": torch.cat(right).float().mean().item(),
        "sound_to_image_chance": chance.mean().item(),
        "sounds": float(len(names)),
    }
