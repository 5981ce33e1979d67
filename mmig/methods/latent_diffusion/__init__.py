"""Latent diffusion (Rombach et al. 2022): the autoencoder, the text-to-image UNet, their export and scores."""
