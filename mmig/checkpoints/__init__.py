"""Checkpoints: reading, writing, layouts, files of weights, cards."""
