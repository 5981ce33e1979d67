"""Language models that write: special tokens, sequences with slots, responses, greedy search."""
