"""Tiny pretrained backbones of the small world: tokenizers, CLIP, language model and captioner.

Each model is trained by one LightningModule, exported into the published folder layout by `export` and measured by
`score`. VAE and UNets are trained elsewhere (`latent_diffusion`, `instruct_pix2pix`).
"""
