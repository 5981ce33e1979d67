"""A folder of shards as one page to look at: `python -m datamodules.browse DIR`."""
