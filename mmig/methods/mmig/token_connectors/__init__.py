"""Connectors that give the denoiser's cross-attention tokens made of the LLM's states, one file a kind."""
