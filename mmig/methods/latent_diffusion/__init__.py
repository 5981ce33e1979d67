"""Latent diffusion (Rombach et al. 2022): the autoencoder and the text-to-image UNet."""
