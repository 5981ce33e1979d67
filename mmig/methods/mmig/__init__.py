"""MMIG: a multimodal LLM whose states and a latent diffusion model support each other."""
