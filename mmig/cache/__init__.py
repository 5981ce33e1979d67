"""Frozen features computed once: `python -m mmig.run.cache --config ... --out DIR` writes them beside the images,
`data.init_args.features: DIR` reads them. What a model asks is `frozen.FrozenFeatures`; what features depend on, and so
what makes a cache stale, is in `facts`; how they lie in shards is the affair of `datamodules.features`.

Cached is what no draw of training changes: posterior moments of the autoencoder (the sample of the posterior is drawn
from them), the text encoder's states of each text that a method may choose, and, while the multimodal LLM and its
adapters are frozen, its states e0 or the visual tokens. Not cacheable, and refused, are random crops and sizes; of
flips both directions are stored. A dropped text takes the states of the empty one, computed once a run.
"""
