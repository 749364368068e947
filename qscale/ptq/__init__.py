"""Quantization after training: one pass over a model with calibration text."""
