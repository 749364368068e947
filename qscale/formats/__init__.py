"""Number formats, dialects, specs and recipes: pure data, no torch.

The errors to expect of a spec are found on first use: they need NumPy, and specs do not.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qscale.formats.calls import Call, call_for, has_kernel
from qscale.formats.dialects import DIALECTS, Dialect, IntArithmetic
from qscale.formats.grids import FORMATS, Format, Grid, values
from qscale.formats.recipe import Recipe
from qscale.formats.spec import QuantSpec

if TYPE_CHECKING:
    from qscale.formats.noise import GroupPower, group_power, mean_square_crest, relmse
    from qscale.formats.qsnr import qsnr_db, qsnr_float, qsnr_int

_ON_FIRST_USE = {
    "GroupPower": "noise",
    "group_power": "noise",
    "mean_square_crest": "noise",
    "qsnr_db": "qsnr",
    "qsnr_float": "qsnr",
    "qsnr_int": "qsnr",
    "relmse": "noise",
}

__all__ = [
    "DIALECTS",
    "FORMATS",
    "Call",
    "Dialect",
    "Format",
    "Grid",
    "GroupPower",
    "IntArithmetic",
    "QuantSpec",
    "Recipe",
    "call_for",
    "group_power",
    "has_kernel",
    "mean_square_crest",
    "qsnr_db",
    "qsnr_float",
    "qsnr_int",
    "relmse",
    "values",
]


def __getattr__(name: str) -> Any:
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"qscale.formats.{_ON_FIRST_USE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
