"""A method added as one folder, with no change of core: a tone becomes a picture of its colour.

It has what the first methods had not: two optimisers, an audio attachment, no source image, a backbone, a cached
feature and a metric of its own. `contract.py` holds it to what every method promises; a new method may begin as a copy.
"""
