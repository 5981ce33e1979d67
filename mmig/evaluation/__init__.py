"""Evaluation of any editor: per-sample values by key, intervals, reports. The metrics are in mmig.metrics."""
