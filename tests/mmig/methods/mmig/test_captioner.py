"""The captioner: its loss and captions against transformers on the same weights, what trains, preprocessing."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data
from torch import nn

from mmig.backbones.blip2 import load_blip2, load_blip2_processor
from mmig.evaluation.pictures import tower_pixels
from mmig.methods.mmig.captioner import MAX_TOKENS, Captioner, check_placeholders, load_captioner, trainable_parameters
from tests.mmig.methods.mmig.captioner_support import build_seeing_blip2, saved_bytes
from tests.tiny_fixtures import IMAGE_SIZE, NUM_QUERY_TOKENS

CAPTIONS = ["a large red circle in the centre.", "the ring is gone."]
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_seeing_blip2(tmp_path_factory.mktemp("blip2"))


@pytest.fixture
def captioner(folder: Path) -> Captioner:
    return load_captioner(folder)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1


def photograph(size: tuple[int, int] | None = None) -> Image.Image:
    image = Image.fromarray(data.chelsea())
    return image if size is None else image.resize(size)


def as_tensor(image: Image.Image) -> torch.Tensor:
    """[1,3,H,W] in [-1,1]."""
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(image.height, image.width, 3)
    return pixels.permute(2, 0, 1)[None].float() / 127.5 - 1


def test_the_loss_is_that_of_transformers(folder: Path, captioner: Captioner) -> None:
    model, processor = load_blip2(folder), load_blip2_processor(folder)
    pictures = [photograph((IMAGE_SIZE, IMAGE_SIZE)), photograph((IMAGE_SIZE, IMAGE_SIZE)).rotate(90)]
    end = processor.tokenizer.eos_token
    found = captioner.loss(torch.cat([as_tensor(picture) for picture in pictures]), captioner.encode(CAPTIONS))
    for row, (picture, caption) in enumerate(zip(pictures, CAPTIONS, strict=True)):
        inputs = processor(images=picture, text=caption + end, return_tensors="pt")
        labels = inputs.input_ids.clone()
        labels[:, : NUM_QUERY_TOKENS + 1] = -100
        expected = model(**inputs, labels=labels).loss
        assert found.counts[row] == (labels != -100).sum()
        torch.testing.assert_close(found.values[row], expected, atol=1e-5, rtol=1e-5)
    assert found.counts.tolist() == [len(ids) for ids in captioner.encode(CAPTIONS)]


def test_the_caption_is_that_of_transformers(folder: Path, captioner: Captioner) -> None:
    model, processor = load_blip2(folder), load_blip2_processor(folder)
    picture = photograph((IMAGE_SIZE, IMAGE_SIZE))
    inputs = processor(images=picture, text=[""], return_tensors="pt")
    ids = model.generate(**inputs, do_sample=False, max_new_tokens=64)
    expected = processor.batch_decode(ids, skip_special_tokens=True)[0].strip()
    assert expected
    assert captioner.caption(as_tensor(picture)) == [expected]


def test_the_caption_is_greedy_whatever_the_checkpoint_says(captioner: Captioner, images: torch.Tensor) -> None:
    expected = captioner.caption(images)
    own = captioner.model.language_model.generation_config
    own.update(repetition_penalty=1.3, no_repeat_ngram_size=2, num_beams=2, do_sample=True)
    assert captioner.caption(images) == expected
    assert captioner.model.language_model.generation_config is own and own.repetition_penalty == 1.3
    prefix = torch.tensor([captioner._prefix()] * 2)
    penalised = captioner.model.generate(
        captioner.pixels(images), prefix, max_new_tokens=64, do_sample=False, num_beams=1, eos_token_id=captioner.end
    )
    assert captioner.tokenizer.batch_decode(penalised, skip_special_tokens=True) != expected


def test_captions_have_no_graph_and_leave_the_mode_as_it_was(folder: Path, images: torch.Tensor) -> None:
    captioner = load_captioner(folder, trainable=True, gradient_checkpointing=True)
    captioner.model.vision_model.eval()
    modes = [module.training for module in captioner.modules()]
    with_dropout = [captioner.caption(images) for _ in range(2)]
    assert with_dropout[0] == with_dropout[1]
    assert modes == [module.training for module in captioner.modules()]
    assert all(parameter.grad is None for parameter in captioner.parameters())


def test_a_row_does_not_depend_on_its_batch(captioner: Captioner, images: torch.Tensor) -> None:
    together = captioner.loss(images, captioner.encode(CAPTIONS))
    alone = captioner.loss(images[1:], captioner.encode(CAPTIONS[1:]))
    torch.testing.assert_close(together.sums[1:], alone.sums)
    assert together.sums[0] != together.sums[1]


def test_the_image_gets_a_gradient_and_frozen_parts_none(captioner: Captioner, images: torch.Tensor) -> None:
    images.requires_grad_()
    captioner.loss(images, captioner.encode(CAPTIONS)).sums.sum().backward()
    assert (images.grad.abs().amax((1, 2, 3)) > 0).all()
    assert all(parameter.grad is None for parameter in captioner.parameters())


def test_only_and_all_of_the_connector_trains(folder: Path, images: torch.Tensor) -> None:
    captioner = load_captioner(folder, trainable=True)
    captioner.loss(images, captioner.encode(CAPTIONS)).sums.sum().backward()
    trained = {name for name, parameter in captioner.model.named_parameters() if parameter.grad is not None}
    assert trained == set(trainable_parameters(captioner.model))
    assert {name.partition(".")[0] for name in trained} == {"qformer", "language_projection", "query_tokens"}
    captioner.set_trainable(False)
    assert not any(parameter.requires_grad for parameter in captioner.parameters())


def test_the_connector_alone_learns_which_image_is_which(folder: Path, images: torch.Tensor) -> None:
    captioner = load_captioner(folder).set_trainable()
    adam = torch.optim.Adam(trainable_parameters(captioner.model).values(), lr=3e-3)
    for _ in range(20):
        adam.zero_grad()
        captioner.loss(images, captioner.encode(CAPTIONS)).values.sum().backward()
        adam.step()
    with torch.no_grad():
        matched, swapped = (
            captioner.loss(given, captioner.encode(CAPTIONS)).values for given in (images, images.flip(0))
        )
    assert (matched < swapped - 0.5).all()


def test_the_published_connector_has_107_130_880_numbers() -> None:
    from transformers import Blip2Config, Blip2ForConditionalGeneration, OPTConfig

    opt = OPTConfig(
        hidden_size=2560, ffn_dim=10240, num_hidden_layers=32, num_attention_heads=32, word_embed_proj_dim=2560
    )
    with torch.device("meta"):
        model = Blip2ForConditionalGeneration(Blip2Config(text_config=opt.to_dict()))
    assert sum(parameter.numel() for parameter in model.parameters()) == 3_744_679_936
    counts: dict[str, int] = {}
    for name, parameter in trainable_parameters(model).items():
        part = name.partition(".")[0]
        counts[part] = counts.get(part, 0) + parameter.numel()
    assert counts == {"qformer": 105_137_664, "language_projection": 1_968_640, "query_tokens": 24_576}
    assert sum(counts.values()) == 107_130_880


def test_dropout_is_left_to_what_trains(folder: Path) -> None:
    captioner = load_captioner(folder, trainable=True).train()
    rates: dict[str, set[float]] = {}
    for name, module in captioner.model.named_modules():
        found = {value for key, value in vars(module).items() if "drop" in key and isinstance(value, float)}
        found |= {module.p} if isinstance(module, nn.Dropout) else set()
        rates.setdefault(name.partition(".")[0], set()).update(found)
    assert rates["language_model"] == {0.0}
    assert rates["vision_model"] == {0.0}
    assert max(rates["qformer"]) == 0.1
    assert load_captioner(folder).model.qformer.dropout.p == 0.0


def test_a_trained_connector_is_float32_behind_bfloat16_towers(folder: Path, images: torch.Tensor) -> None:
    captioner = load_captioner(folder, dtype="bfloat16", trainable=True)
    assert captioner.model.qformer.layernorm.weight.dtype == torch.float32
    assert captioner.model.vision_model.post_layernorm.weight.dtype == torch.bfloat16
    captioner.loss(images, captioner.encode(CAPTIONS)).values.sum().backward()
    assert all(value.grad.dtype == torch.float32 for value in trainable_parameters(captioner.model).values())
    assert len(captioner.caption(images)) == 2
    found, exact = (
        model.eval().loss(images, model.encode(CAPTIONS)).values for model in (captioner, load_captioner(folder))
    )
    torch.testing.assert_close(found, exact, atol=0, rtol=0.05)


def test_checkpointing_saves_memory_and_keeps_the_gradient(folder: Path, images: torch.Tensor) -> None:
    images.requires_grad_()
    plain, saving = load_captioner(folder), load_captioner(folder, gradient_checkpointing=True)
    runs = [lambda which=which: which.loss(images, which.encode(CAPTIONS)).sums.sum() for which in (plain, saving)]
    assert saved_bytes(runs[1]) < 0.7 * saved_bytes(runs[0])
    first, second = (torch.autograd.grad(run(), images)[0] for run in runs)
    torch.testing.assert_close(first, second)


def test_preprocessing_is_that_of_the_processor_without_rounding() -> None:
    from transformers import BlipImageProcessor

    image = as_tensor(photograph())
    processor = BlipImageProcessor(size={"height": 224, "width": 224}, do_rescale=False)
    expected = processor((image[0] + 1) / 2, return_tensors="pt").pixel_values
    torch.testing.assert_close(tower_pixels(image, (224, 224), MEAN, STD), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [64, 224])
def test_preprocessing_is_that_of_the_processor_up_to_its_whole_numbers(size: int) -> None:
    from transformers import BlipImageProcessor

    picture = photograph()
    processor = BlipImageProcessor(size={"height": size, "width": size})
    expected = processor(picture, return_tensors="pt").pixel_values
    error = (tower_pixels(as_tensor(picture), (size, size), MEAN, STD) - expected).abs()
    assert error.mean() < 1e-2
    # the processor rounds to 1/255 after each of two passes, which is up to 1.4/255 together
    assert (error * torch.tensor(STD).view(3, 1, 1)).max() < 1e-2


def test_nothing_is_clamped() -> None:
    images = torch.full((1, 3, 8, 8), 3.0, requires_grad=True)
    pixels = tower_pixels(images, (4, 4), MEAN, STD)
    torch.testing.assert_close(pixels[0, 0], torch.full((4, 4), (2.0 - MEAN[0]) / STD[0]))
    pixels.sum().backward()
    assert (images.grad > 0).all()


def test_one_pixel_becomes_a_plain_image(captioner: Captioner) -> None:
    pixels = captioner.pixels(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1))
    expected = (torch.tensor([1.0, 0.0, 0.5]) - torch.tensor(MEAN)) / torch.tensor(STD)
    torch.testing.assert_close(pixels, expected.view(1, 3, 1, 1).expand(1, 3, IMAGE_SIZE, IMAGE_SIZE))


@pytest.mark.parametrize("shape", [(2, 1, 64, 64), (3, 64, 64), (2, 3, 0, 64), (0, 3, 64, 64)])
def test_other_shapes_are_refused(captioner: Captioner, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected float \[B,3,H,W\] in \[-1,1\], found torch\.float32"):
        captioner.caption(torch.zeros(shape))


def test_whole_numbers_are_refused(captioner: Captioner) -> None:
    with pytest.raises(ValueError, match=r"found torch\.uint8"):
        captioner.loss(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), captioner.encode(["a"]))


def test_an_empty_caption_counts_nothing(captioner: Captioner, images: torch.Tensor) -> None:
    mixed = captioner.loss(images, captioner.encode(["", CAPTIONS[1]]))
    assert mixed.counts[0] == mixed.sums[0] == mixed.values[0] == 0
    torch.testing.assert_close(mixed.sums[1], captioner.loss(images, captioner.encode(CAPTIONS)).sums[1])
    captioner.set_trainable()
    nothing = captioner.loss(images, captioner.encode([" ", ""]))
    assert nothing.counts.tolist() == nothing.sums.tolist() == [0, 0]
    nothing.sums.sum().backward()
    assert all((value.grad == 0).all() for value in trainable_parameters(captioner.model).values())


def test_a_cut_caption_has_no_end(folder: Path) -> None:
    model, processor = load_blip2(folder), load_blip2_processor(folder)
    text = ("a red star " * MAX_TOKENS).strip()
    ids = processor.tokenizer(text, add_special_tokens=False).input_ids
    whole = processor.tokenizer.decode(ids[:MAX_TOKENS])
    captioner = Captioner(model, processor)
    assert captioner.encode([whole, text]) == [[*ids[:MAX_TOKENS], captioner.end], ids[:MAX_TOKENS]]


def test_the_end_is_what_the_model_was_taught(folder: Path, images: torch.Tensor) -> None:
    model, processor = load_blip2(folder), load_blip2_processor(folder)
    pixels = Captioner(model, processor).pixels(images[:1])
    ids = model.generate(pixel_values=pixels, do_sample=False, max_new_tokens=20)[0, NUM_QUERY_TOKENS + 1 :].tolist()
    place, end = next((k, token) for k, token in enumerate(ids) if k > 2 and token > 3 and token not in ids[:k])
    model.config.text_config.eos_token_id = end  # the published OPT models end with a line break, not with </s>
    captioner = Captioner(model, processor)
    assert captioner.encode(["a ring"])[0][-1] == end
    expected = processor.tokenizer.decode(ids[: place + 1], skip_special_tokens=True).strip()
    assert captioner.caption(images[:1]) == [expected]
    assert expected != processor.tokenizer.decode(ids, skip_special_tokens=True).strip()


def test_a_placeholder_in_a_caption_is_refused(captioner: Captioner, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"row 1 of the batch has 9 image placeholders .*expected 8"):
        captioner.loss(images, captioner.encode(["a ring", "a <image> ring"]))


def test_missing_placeholders_are_refused() -> None:
    check_placeholders(torch.tensor([[5, 5, 1], [5, 1, 5]]), 5, 2)
    with pytest.raises(ValueError, match="row 1 of the batch has 1 image placeholders"):
        check_placeholders(torch.tensor([[5, 5, 1], [5, 1, 1]]), 5, 2)


def test_another_number_of_captions_is_refused(captioner: Captioner, images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        captioner.loss(images, captioner.encode(CAPTIONS[:1]))


def test_a_processor_that_does_not_fit_is_refused(folder: Path) -> None:
    model, processor = load_blip2(folder), load_blip2_processor(folder)
    processor.num_query_tokens = 4
    with pytest.raises(ValueError, match="expected 8 queries, found 4 in the processor"):
        Captioner(model, processor)
    processor = load_blip2_processor(folder)
    processor.image_processor.size = {"height": 32, "width": 32}
    with pytest.raises(ValueError, match="expected bicubic resizing to 64x64"):
        Captioner(model, processor)
