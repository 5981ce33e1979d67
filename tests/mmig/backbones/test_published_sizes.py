"""Parameter counts of the published models, built from their configs on the meta device."""

import torch

from mmig.backbones.loading import num_parameters


def test_the_unet_of_stable_diffusion_1_5():
    from diffusers import UNet2DConditionModel

    cross = ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",)
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            in_channels=4,
            out_channels=4,
            block_out_channels=(320, 640, 1280, 1280),
            down_block_types=cross,
            up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
            layers_per_block=2,
            attention_head_dim=8,
            cross_attention_dim=768,
        )
    assert num_parameters(unet) == 859_520_964


def test_the_autoencoder_of_stable_diffusion():
    from diffusers import AutoencoderKL

    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
            latent_channels=4,
            sample_size=512,
        )
    assert num_parameters(vae) == 83_653_863


def test_the_text_encoder_of_stable_diffusion():
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        max_position_embeddings=77,
    )
    with torch.device("meta"):
        assert num_parameters(CLIPTextModel(config)) == 123_060_480


def test_llama_7b():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=2048,
    )
    with torch.device("meta"):
        assert num_parameters(LlamaForCausalLM(config)) == 6_738_415_616
