"""What to train and ship under a budget: bytes, exactly. No torch."""

from qscale.planning.memory import Bytes, bits_per_weight, model_bytes, weight_bytes

__all__ = ["Bytes", "bits_per_weight", "model_bytes", "weight_bytes"]
