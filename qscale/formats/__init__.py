"""Number formats, dialects, specs and recipes: pure data, no torch."""

from qscale.formats.dialects import DIALECTS, Dialect, IntArithmetic
from qscale.formats.grids import FORMATS, Format
from qscale.formats.recipe import Recipe
from qscale.formats.spec import QuantSpec

__all__ = ["DIALECTS", "FORMATS", "Dialect", "Format", "IntArithmetic", "QuantSpec", "Recipe"]
