"""The small world: procedural scenes in which every edit has a known right answer."""
