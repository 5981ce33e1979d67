"""Sibling methods, one folder each; they use the core, never each other."""
