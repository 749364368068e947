"""What follows from laws: optima, multipliers, critical amounts. Pure functions of numbers; NumPy alone.

Which file: :mod:`allocation` splits compute between size, data and full precision; :mod:`effective` counts
quantization as a smaller model; :mod:`bits` chooses precision and layout. The rounding error of a format is
:func:`qscale.formats.relmse`.
"""

from qscale.laws.derived.allocation import (
    Allocation,
    compute_optimal,
    contour_slope,
    critical_batch,
    critical_tokens,
    effective_tokens,
    kaplan_allocation,
    least_steps,
    least_tokens,
    optimal_exponents,
    optimal_qat_fraction,
    worth_of_a_token,
)
from qscale.laws.derived.bits import (
    FpOptimum,
    Layout,
    fp_constant,
    fp_critical_tokens,
    fp_effective_size,
    fp_optimal_bits_at_size,
    fp_optimal_bits_at_tokens,
    fp_optimum,
    optimal_bits,
    optimal_layout,
    rounded_layout,
    share_of_bits,
)
from qscale.laws.derived.effective import (
    ADDITIVITY,
    PUBLISHED_EFF,
    additivity,
    combined_delta,
    delta_of_eff,
    eff_of_delta,
    eff_of_scales,
    layer_error,
    scales_of_eff,
)

__all__ = [
    "ADDITIVITY",
    "PUBLISHED_EFF",
    "Allocation",
    "FpOptimum",
    "Layout",
    "additivity",
    "combined_delta",
    "compute_optimal",
    "contour_slope",
    "critical_batch",
    "critical_tokens",
    "delta_of_eff",
    "eff_of_delta",
    "eff_of_scales",
    "effective_tokens",
    "fp_constant",
    "fp_critical_tokens",
    "fp_effective_size",
    "fp_optimal_bits_at_size",
    "fp_optimal_bits_at_tokens",
    "fp_optimum",
    "kaplan_allocation",
    "layer_error",
    "least_steps",
    "least_tokens",
    "optimal_bits",
    "optimal_exponents",
    "optimal_layout",
    "optimal_qat_fraction",
    "rounded_layout",
    "scales_of_eff",
    "share_of_bits",
    "worth_of_a_token",
]
