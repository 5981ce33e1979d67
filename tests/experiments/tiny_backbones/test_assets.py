"""The shipped tiny backbones: layouts, sizes, agreement, and that they know the small world.

The floors are far below the figures of assets/tiny/README.md: they find a broken file, not a worse training.
"""

from pathlib import Path

import pytest
import torch
from PIL import Image

from datamodules.schema import Batch, collate
from datamodules.tinyworld.centred_reader import read_centred
from datamodules.tinyworld.edit_grammar import leads_to, names
from datamodules.tinyworld.grammar import judge_text
from datamodules.tinyworld.oracle import judge, judge_scene
from datamodules.tinyworld.sample import draw_from, make_sample
from datamodules.tinyworld.world import KINDS, World
from experiments.gan_gate import drawn
from experiments.tiny_backbones import score
from experiments.tiny_backbones.clip_model import normalise_images
from experiments.tiny_backbones.score_images import score_text_to_image
from experiments.tiny_backbones.score_llava import open_writer, score_llava
from experiments.tiny_backbones.tokenizers import MAX_VOCABULARY
from mmig.backbones.clip import load_clip_vision, load_open_clip
from mmig.backbones.diffusion import load_text_encoder, load_tokenizer
from mmig.language.sequences import VISUAL_TOKEN
from mmig.methods.instruct_pix2pix.pipeline import EditSampling, TextField
from mmig.methods.instruct_pix2pix.pipeline import open_editor as open_editing
from mmig.methods.latent_diffusion.pipeline import DrawSampling
from mmig.methods.latent_diffusion.pipeline import open_editor as open_drawing
from mmig.methods.styleclip.loading import load_generator
from mmig.training.rng import sample_generators

ASSETS = Path(__file__).parents[3] / "assets" / "tiny"


@pytest.fixture(scope="module")
def samples() -> Batch:
    """A hundred samples of the test split."""
    return collate([make_sample(0, "test", index, level="plain") for index in range(100)])


@pytest.fixture(scope="module")
def few(samples: Batch) -> Batch:
    """Sixteen of them."""
    return {name: value[:16] for name, value in samples.items() if name != "faults"}


def test_all_assets_stay_below_sixty_megabytes():
    assert sum(file.stat().st_size for file in ASSETS.rglob("*") if file.is_file()) <= 60 * 2**20  # as du counts them


@pytest.mark.parametrize("name", ["clip", "stable-diffusion/tokenizer", "llama", "blip2", "llava"])
def test_vocabularies_are_small(name: str):
    from transformers import AutoTokenizer

    assert len(AutoTokenizer.from_pretrained(ASSETS / name)) <= MAX_VOCABULARY


def test_the_three_clip_folders_are_one_model(samples: Batch):
    clip = load_open_clip(ASSETS / "clip")
    pixels, texts = normalise_images(samples["source"][:4]), samples["response"][:4]
    vision = load_clip_vision(ASSETS / "clip-vision")
    expected = clip.model.encode_image(pixels)
    torch.testing.assert_close(vision(pixels).pooler_output @ clip.model.visual.proj, expected, atol=1e-4, rtol=1e-4)
    tokenizer = load_tokenizer(ASSETS / "stable-diffusion")
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    assert torch.equal(ids, clip.tokenizer(texts))
    pooled = load_text_encoder(ASSETS / "stable-diffusion")(ids).pooler_output
    expected = clip.model.encode_text(ids)
    torch.testing.assert_close(pooled @ clip.model.text_projection, expected, atol=1e-4, rtol=1e-4)


def test_every_text_fits_the_text_encoder(samples: Batch):
    clip = load_open_clip(ASSETS / "clip")
    for field in ("instruction", "response", "source_caption", "target_caption"):
        assert (clip.tokenizer(samples[field], context_length=200).argmax(1) < 77).all()


def test_clip_finds_captions(samples: Batch):
    found = score.score_clip(ASSETS / "clip", [samples])
    assert found["image_to_text"] > 0.6
    assert found["own_before_sibling"] > 0.8


def test_language_model_answers():
    world = World(level="plain", kinds=KINDS, pictures=False)
    texts = collate([draw_from(world, "test", index) for index in range(32)], size=(1, 1))
    found = score.score_language(ASSETS, [texts], judge_text, leads_to)
    assert found["response/literal"] > 0.8 and found["expressive/literal"] > 0.8
    assert found["response/inferable"] > 0.5 and found["expressive/inferable"] > 0.5
    assert found["perplexity"] < 2


@pytest.fixture(scope="module")
def asked() -> Batch:
    """Eighty samples of the test split: thirty-two of each visual and inferable instructions, sixteen literal ones."""
    counts = {"literal": 16, "visual": 32, "inferable": 32}
    return collate(
        [
            make_sample(0, "test", index, level="plain", kinds=(kind,))
            for kind, count in counts.items()
            for index in range(count)
        ]
    )


def test_llava_writes_what_is_meant_and_needs_its_eyes_for_that(asked: Batch):
    found = score_llava(ASSETS / "llava", [asked], leads_to, names)
    assert found["seeing/literal"] > 0.7 and found["seeing/visual"] > 0.5 and found["seeing/inferable"] > 0.6
    assert found["named/seeing/visual"] > 0.6 and found["named/other picture/visual"] < 0.2
    assert found["named/blind/visual"] == 0 and found["led/blind/visual"] > 0.7


def test_llava_is_asked_by_its_processor_as_mgie_asks():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    folder = ASSETS / "llava"
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    assert type(model).__name__ == "LlavaForConditionalGeneration" and model.config.vision_feature_layer == -2
    instruction = "make the odd one out blue"
    content = [{"type": "text", "text": f"what will this image be like if '{instruction}'"}, {"type": "image"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    found = processor(text=[text], images=[[Image.new("RGB", (64, 64))]], return_tensors="pt").input_ids[0].tolist()
    (prompt,) = open_writer(folder, sees=True).prompts([instruction])
    assert found == [model.config.image_token_id if number == VISUAL_TOKEN else number for number in prompt]


def test_captioner_says_what_is_there(few: Batch):
    found = score.score_captioner(ASSETS, [few], judge_text)
    assert found["object_colour_count"] > 0.7


def test_scenes_are_drawn_from_their_captions(few: Batch):
    pipeline = open_drawing(str(ASSETS / "stable-diffusion"), DrawSampling(12, 1.5))
    drawn = score_text_to_image(pipeline, [few], judge_scene)
    assert drawn["objects"] > 0.6 and drawn["background"] > 0.8


@pytest.mark.parametrize(("text", "floor"), [("response", 0.4), ("instruction", 0.2)])
def test_pictures_are_edited(few: Batch, text: TextField, floor: float):
    sampling = EditSampling(12, 1.5, 1.2)
    editor = open_editing(str(ASSETS / "instruct-pix2pix"), str(ASSETS / "stable-diffusion"), text, sampling)
    edited = editor(few, sample_generators(0, few["key"])).images
    found = [judge(image, facts) for image, facts in zip(edited, few["metadata"], strict=True)]
    assert sum(verdict.success and verdict.preservation for verdict in found) / len(found) > floor


def test_centred_scenes_are_drawn_from_noise():
    images = drawn(load_generator(ASSETS / "gan"), 24, truncation=1.0, seed=0)
    assert sum(read_centred(image) is not None for image in images) > 0.5 * len(images)
