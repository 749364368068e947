"""Scaling laws: forms, fits, uncertainty, law files and the laws of the literature. Loads NumPy alone.

What fits and derives is found on first use: a law is loaded and evaluated without it.

>>> from qscale import laws
>>> law = laws.load("chen2025/w4a4")
>>> round(law.predict(N=145e6, D=20e9, G=128), 6)
0.069177
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qscale.laws import forms
from qscale.laws.law import Law
from qscale.laws.library import list_published, load

if TYPE_CHECKING:
    from qscale.laws import curves, derived
    from qscale.laws.comparison import compare
    from qscale.laws.contrasts import contrast
    from qscale.laws.fitting import fit
    from qscale.laws.objective import Objective
    from qscale.laws.profiles import profile
    from qscale.laws.robustness import sensitivity
    from qscale.laws.suggest import suggest_runs

_ON_FIRST_USE = {
    "Objective": "objective",
    "compare": "comparison",
    "contrast": "contrasts",
    "fit": "fitting",
    "profile": "profiles",
    "sensitivity": "robustness",
    "suggest_runs": "suggest",
}
_MODULES = ("curves", "derived")

__all__ = [
    "Law",
    "Objective",
    "compare",
    "contrast",
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


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"qscale.laws.{name}")
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"qscale.laws.{_ON_FIRST_USE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
