"""MGIE (Fu et al. 2024): a multimodal LLM says what an instruction means for a picture, and so guides its edit."""
