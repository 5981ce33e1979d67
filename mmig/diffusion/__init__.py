"""Parts of the diffusion editing model: noise process, latents, losses, conditioning, guidance, sampling."""
