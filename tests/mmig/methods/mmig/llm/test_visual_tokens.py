import numpy as np
import pytest
import torch
from PIL import Image

from mmig.methods.mmig.llm.adapter_hooks import vision_blocks
from mmig.methods.mmig.llm.visual_tokens import VisualProjector, class_tokens, depths, preprocess
from tests.mmig.methods.mmig.llm.tiny import BLOCKS, SIZE, VISION_WIDTH, images, mllm, vision


def test_preprocessing_matches_transformers_processor():
    from transformers import CLIPImageProcessor

    y, x = np.mgrid[0:60, 0:90] / 90
    picture = np.stack([x, y, 0.5 + 0.4 * np.sin(9 * x * y)], axis=-1)
    pixels = (picture * 255).round().astype(np.uint8)
    processor = CLIPImageProcessor(size={"height": 28, "width": 28}, do_center_crop=False)
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"]
    given = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    torch.testing.assert_close(preprocess(given, 28), expected, atol=0.02, rtol=0)


def test_preprocessing_statistics_and_gradient():
    grey = torch.zeros(1, 3, 8, 8, requires_grad=True)  # 0.5 in [0,1]
    clip, imagenet = preprocess(grey, 8), preprocess(grey, 8, "imagenet")
    torch.testing.assert_close(clip[0, :, 0, 0], torch.tensor([0.069037, 0.161393, 0.332839]), atol=1e-5, rtol=0)
    torch.testing.assert_close(imagenet[0, :, 0, 0], torch.tensor([0.065502, 0.196429, 0.417778]), atol=1e-5, rtol=0)
    preprocess(grey * 3 + 1.5, 5).sum().backward()  # outside [-1,1] too: nothing is clamped
    assert (grey.grad != 0).all()


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [(24, (4, 8, 12, 16, 20, 24)), (6, (1, 2, 3, 4, 5, 6)), (12, (2, 4, 6, 8, 10, 12)), (7, (2, 3, 4, 5, 6, 7))],
)
def test_depths_are_evenly_spaced(blocks, expected):
    assert depths(blocks) == expected


def test_class_tokens_are_the_blocks_outputs_before_the_final_norm():
    tower, seen = vision(), {}
    for number, block in enumerate(vision_blocks(tower), 1):
        block.register_forward_hook(lambda _m, _i, out, number=number: seen.__setitem__(number, out))
    tokens = class_tokens(tower, torch.randn(2, 3, SIZE, SIZE), depths(BLOCKS))
    assert tokens.shape == (2, 6, VISION_WIDTH)
    assert torch.equal(tokens, torch.stack([seen[number][:, 0] for number in (2, 3, 4, 5, 6, 7)], dim=1))


def test_projector_is_two_layers_with_silu():
    projector = VisualProjector(6, 9, 4)
    assert not projector.down.bias.any()
    assert not projector.up.bias.any()
    tokens = torch.randn(2, 6, 6)
    inner = tokens @ projector.down.weight.T
    expected = (inner / (1 + torch.exp(-inner))) @ projector.up.weight.T
    torch.testing.assert_close(projector(tokens), expected)


def test_each_image_is_routed_by_itself():
    """The reference implementation routes every image with the first one's features; a permuted batch shows it."""
    model, pictures = mllm(), images(count=4)
    order = torch.tensor([2, 0, 3, 1])
    has_image = torch.ones(4, dtype=torch.bool)
    tokens = model.visual_tokens(pictures, has_image)
    torch.testing.assert_close(model.visual_tokens(pictures[order], has_image), tokens[order], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model.visual_tokens(pictures[:1], has_image[:1]), tokens[:1], atol=1e-5, rtol=1e-5)
    assert (tokens[0] - tokens[1]).abs().max() > 0.01


def test_vision_adapters_act_before_the_attention_of_every_block():
    """Against the same tower with the adapted norm written out: block by block, weights from its own class token."""
    model, bare = mllm(), vision()
    pixels = preprocess(images(count=2), SIZE)
    hidden = bare.pre_layrnorm(bare.embeddings(pixels))
    for block, adapter in zip(bare.encoder.layers, model.adapters["vision"], strict=True):
        normed = block.layer_norm1(hidden)
        weights = torch.softmax(adapter.router(normed[:, 0]) / adapter.temperature, dim=-1)
        hidden = hidden + block.self_attn(adapter(normed, weights), attention_mask=None)[0]
        hidden = hidden + block.mlp(block.layer_norm2(hidden))
    adapted = model.vision(pixel_values=pixels).last_hidden_state
    torch.testing.assert_close(adapted, hidden, atol=1e-5, rtol=1e-5)
    assert (adapted - bare(pixel_values=pixels).last_hidden_state).abs().max() > 0.01


def test_bad_input():
    with pytest.raises(ValueError, match=r"expected float \[B,3,H,W\] in \[-1,1\], found torch.float32 \[1, 1, 8, 8\]"):
        preprocess(torch.zeros(1, 1, 8, 8), 8)
    with pytest.raises(ValueError, match="image_statistics: expected one of clip, imagenet, found 'half'"):
        preprocess(torch.zeros(1, 3, 8, 8), 8, "half")
    with pytest.raises(ValueError, match="visual tokens"):
        depths(0)
    with pytest.raises(ValueError, match="expected a CLIPVisionModel"):
        vision_blocks(torch.nn.Linear(2, 2))
