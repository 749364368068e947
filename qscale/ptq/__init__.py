"""Quantization after training: one pass over a model with calibration text.

Importing it has ``from_pretrained`` of transformers read the folders that a pass writes.
"""

from qscale.ptq import registered  # noqa: F401 - it registers
