"""Metrics of instruction-guided editing: a pure function a sample and a torchmetrics.Metric each; and of whole sets."""
