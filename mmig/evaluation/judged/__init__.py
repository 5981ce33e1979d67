"""Benchmarks whose scores a multimodal LLM gives: their items, what it is asked, and what its replies come to."""
