"""The multimodal LLM. Stage 1 uses the text path only; adapters and visual tokens begin with stage 2."""
