"""Metrics of instruction-guided editing: one pure per-sample function and one torchmetrics.Metric each."""
