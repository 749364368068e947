"""Number formats, dialects, specs and recipes: pure data, no torch."""

from qscale.formats.calls import Call, call_for, has_kernel
from qscale.formats.dialects import DIALECTS, Dialect, IntArithmetic
from qscale.formats.grids import FORMATS, Format, Grid, values
from qscale.formats.recipe import Recipe
from qscale.formats.spec import QuantSpec

__all__ = [
    "DIALECTS",
    "FORMATS",
    "Call",
    "Dialect",
    "Format",
    "Grid",
    "IntArithmetic",
    "QuantSpec",
    "Recipe",
    "call_for",
    "has_kernel",
    "values",
]
