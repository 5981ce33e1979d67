"""MGIE (Fu et al. 2024): a multimodal LLM writes out what an instruction means for a picture, which guides the edit."""
