"""Public datasets in their published layouts -> shards. `python -m datamodules.convert` is the command line.

`source` says what a converter declares, `engine` runs any of them; each dataset has a file of its own.
"""
