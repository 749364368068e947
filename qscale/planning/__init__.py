"""What to train and ship under a budget: bytes, exactly, and predicted loss with a band. Loads NumPy alone.

Which file: :mod:`architecture` and :mod:`footprint` count bytes; :mod:`evidence` says which laws may be used
together; :mod:`choose` and :mod:`compare` are about what to ship, :mod:`training` and :mod:`compute` about
what to train, :mod:`effective` about what quantization is worth, :mod:`settle` about what is yet to measure.
"""

from qscale.planning.architecture import Architecture
from qscale.planning.choose import LargestGroup, Plan, Tolerance, least_loss, within_tolerance
from qscale.planning.compare import GroupWorth, difference, group_worth
from qscale.planning.compute import Trained, precision_for_compute
from qscale.planning.effective import Critical, Effective, critical_data, effective_size
from qscale.planning.evidence import Evidence, Forecast, Option
from qscale.planning.footprint import Footprint, Serving, activation_bytes, cache_bytes, footprint
from qscale.planning.memory import Bytes, bits_per_weight, model_bytes, weight_bytes
from qscale.planning.rows import Row
from qscale.planning.settle import Settling, runs_to_settle
from qscale.planning.training import QatShare, Repay, qat_repays, qat_share

__all__ = [
    "Architecture",
    "Bytes",
    "Critical",
    "Effective",
    "Evidence",
    "Footprint",
    "Forecast",
    "GroupWorth",
    "LargestGroup",
    "Option",
    "Plan",
    "QatShare",
    "Repay",
    "Row",
    "Serving",
    "Settling",
    "Tolerance",
    "Trained",
    "activation_bytes",
    "bits_per_weight",
    "cache_bytes",
    "critical_data",
    "difference",
    "effective_size",
    "footprint",
    "group_worth",
    "least_loss",
    "model_bytes",
    "precision_for_compute",
    "qat_repays",
    "qat_share",
    "runs_to_settle",
    "weight_bytes",
    "within_tolerance",
]
