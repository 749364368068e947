"""Scaling laws: forms, fits, uncertainty, law files and the laws of the literature. Loads NumPy alone.

>>> from qscale import laws
>>> law = laws.load("chen2025/w4a4")
>>> round(law.predict(N=145e6, D=20e9, G=128), 6)
0.069177
"""

from qscale.laws import curves, derived, forms
from qscale.laws.compare import compare
from qscale.laws.fit import fit
from qscale.laws.law import Law
from qscale.laws.library import list_published, load
from qscale.laws.objective import Objective
from qscale.laws.profile import profile
from qscale.laws.sensitivity import sensitivity
from qscale.laws.suggest import suggest_runs

__all__ = [
    "Law",
    "Objective",
    "compare",
    "curves",
    "derived",
    "fit",
    "forms",
    "list_published",
    "load",
    "profile",
    "sensitivity",
    "suggest_runs",
]
