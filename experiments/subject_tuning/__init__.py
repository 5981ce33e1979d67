"""What UMM-Diffusion is held against: editors that train for every subject before they draw it, as `editor` of
evaluate.py's `--config` (configs/editors/textual_inversion.yaml, dreambooth.yaml).
"""
