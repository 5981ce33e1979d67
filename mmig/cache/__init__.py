"""Frozen features, computed once and read ever after.

`python -m mmig.run.cache --config ... --out DIR` writes them beside the images, `data.init_args.features: DIR` reads
them. What a method asks is `frozen.FrozenFeatures`, to which it declares each feature as a `CachedFeature`: how it is
computed, what it depends on (and so what makes it stale), whether it looks at the images. How they lie in shards is
the affair of `datamodules.features`.

Cached is what no draw of training changes. `latent` has what methods in the latent space of a published pipeline share:
posterior moments of the autoencoder (the sample of the posterior is drawn from them) and the text encoder's states of
each text that a method may choose; a dropped text takes the states of the empty one, computed once a run. Not
cacheable, and refused, are random crops and sizes; of flips both directions are stored.

`map` is the other way to compute something once a sample: new samples out of each, as shards of their own.
"""
