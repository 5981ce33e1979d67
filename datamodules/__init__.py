"""Shards and what is made of them: schema, stream, transforms, a LightningDataModule a data set."""
