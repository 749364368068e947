"""Cell effects: how far a cell of runs lies off the law, alike for its baseline and all that share it.

In ``ln L = ln(e^u * baseline(N, D) + delta)`` the misfit u of the baseline at one (N, D, seed) is drawn from
a normal distribution. Runs that differ in the recipe alone have it in common, so a joint fit of losses with
these effects knows delta nearly as well as a fit of differences does, and the baseline beside it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qscale.errors import FitError, LawError
from qscale.laws.forms import ABSENT, FloatArray, Form
from qscale.laws.posynomial import Posynomial
from qscale.laws.uncertainty import restricted_likelihood

_LARGEST = 4e7  # numbers of the second derivatives of all rows
_RATIOS = (1e-3, 1e3)  # of the s.d. of an effect to that of a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Effects:
    """Which rows share an effect, and how large effects are."""

    group: NDArray[np.intp]  #: a number from 0 for each row
    ratio: float = 1.0  #: the s.d. of an effect over that of a row's noise

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self.group.max()) + 1

    @property
    def freedom(self) -> float:
        """Degrees of freedom that the effects take: one each where they are large, none where they are 0."""
        size = np.bincount(self.group) * self.ratio**2
        return float(np.sum(size / (1 + size)))

    def added_to(self, problem: Posynomial, shared: NDArray[np.bool_]) -> Posynomial:
        """The problem with a parameter more for each effect, which multiplies the shared terms.

        Raises:
            FitError: There are more rows and effects than fit at once.
        """
        terms, rows, parameters = problem.design.shape
        if terms * (terms + 1) / 2 * rows * (parameters + self.count) ** 2 > _LARGEST:
            raise FitError(
                f"{rows} rows with {self.count} cells are too many for effects of cells: fit deltas of pairs"
            )
        column = (self.group[:, None] == np.arange(self.count)).astype(np.float64)
        added = column[None] * shared[:, None, None]
        return replace(problem, design=np.concatenate([problem.design, added], axis=2))

    def with_ratio(self, slopes: FloatArray, residuals: FloatArray, variance: FloatArray) -> Effects:
        """The ratio of greatest restricted likelihood.

        Args:
            slopes: Of ln f by the parameters, ``(rows, parameters)``.
            residuals: ``ln target - ln f`` without effects.
            variance: Of each row's noise, up to a common factor.

        Source: Patterson and Thompson 1971.
        """
        from scipy.optimize import minimize_scalar

        def loss(log_ratio: float) -> float:
            ratio = np.array([np.exp(log_ratio)])
            return -float(restricted_likelihood(slopes, residuals, variance, self.group, ratio)[0][0])

        low, high = np.log(_RATIOS)
        found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
        return replace(self, ratio=float(np.exp(found.x)))


def shared_terms(form: Form) -> NDArray[np.bool_]:
    """Which terms the unquantized runs have too: those that an effect multiplies.

    Raises:
        LawError: No term is absent at a level, so the form is no joint one.
    """
    shared = np.array([term.by is None for term in form.terms])
    joint = any(ABSENT in variable.levels for variable in form.variables)
    if not joint or shared.all() or not shared.any():
        raise LawError(
            f"effects of cells need a joint form of baseline and delta, such as joint-table, and rows of the "
            f"level {ABSENT!r}"
        )
    return shared
