"""Whether data can be trained on, before any model loads: `python -m datamodules.check DATA`; a glance at the start."""
