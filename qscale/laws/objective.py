"""What a fit minimizes: a loss of residuals."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from qscale.errors import LawError
from qscale.laws.forms import FloatArray

_OBJECTIVE = re.compile(
    r"(?:(?P<residual>log|raw):)?(?:(?P<plain>l2|lad)|(?P<loss>huber|student)(?::(?P<width>[0-9.eE+-]+))?)"
)

#: Widths of Huber losses on the way to absolute deviations, times the objective's.
_NARROWING = (1.0, 1e-2, 1e-4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is minimized: the sum of a loss of residuals.

    ``log`` residuals are ``ln f - ln target``, ``raw`` ones ``f - target``. ``l2`` is ``r^2 / 2``; ``huber``
    is that up to ``width``, then ``width * (|r| - width / 2)``; ``lad`` is ``|r|``; ``student`` is ``(df + 1)
    / 2 * width^2 * ln(1 + r^2 / (df * width^2))``. ``over`` weighs residuals above zero (the fit above the
    target) by a factor: 1 is symmetric.
    """

    residual: Literal["log", "raw"] = "log"
    loss: Literal["l2", "huber", "lad", "student"] = "l2"
    width: float = 1e-3
    df: float = 4.0
    over: float = 1.0

    @classmethod
    def parse(cls, text: str) -> Objective:
        """From a text: ``[log:|raw:]l2``, ``huber[:width]``, ``lad`` or ``student[:width]``.

        Raises:
            LawError: It is none of these.

        Example:
            >>> Objective.parse("huber:1e-4").width, Objective.parse("raw:l2").residual
            (0.0001, 'raw')
        """
        found = _OBJECTIVE.fullmatch(text.strip())
        try:
            width = float(found["width"] or 1e-3) if found else 0.0
        except ValueError:
            width = 0.0
        if found is None or not 0 < width < np.inf:
            raise LawError(
                f"objective {text!r}: wanted l2, huber, lad or student, such as huber:1e-3 with a width, or "
                "raw:l2 for residuals that are no logarithms"
            )
        return cls(
            residual="raw" if found["residual"] == "raw" else "log",
            loss=found["plain"] or found["loss"],  # type: ignore[arg-type]
            width=width,
        )

    def __str__(self) -> str:
        width = f"({self.width:g})" if self.loss in ("huber", "student") else ""
        return f"{self.loss}{width} of {self.residual} residuals" + (
            f", those above weighed {self.over:g}" if self.over != 1.0 else ""
        )

    @property
    def smooth(self) -> Objective:
        """Itself, or the Huber loss of its width where it is the absolute deviation."""
        return replace(self, loss="huber") if self.loss == "lad" else self

    @property
    def narrowing(self) -> tuple[Objective, ...]:
        """Smooth losses that lead to this one, each to be minimized from the optimum before."""
        if self.loss != "lad":
            return (self,)
        return tuple(replace(self, loss="huber", width=self.width * share) for share in _NARROWING)

    def losses(self, r: FloatArray) -> FloatArray:
        """The loss of each residual."""
        size = np.abs(r)
        if self.loss == "l2":
            out = 0.5 * r * r
        elif self.loss == "lad":
            out = size
        elif self.loss == "huber":
            out = np.where(size <= self.width, 0.5 * r * r, self.width * (size - 0.5 * self.width))
        else:
            out = 0.5 * (self.df + 1) * self.width**2 * np.log1p(r * r / (self.df * self.width**2))
        return out * self._side(r)

    def slopes(self, r: FloatArray) -> tuple[FloatArray, FloatArray]:
        """First and second derivative of :meth:`losses`."""
        if self.loss == "l2":
            first, second = r, np.ones_like(r)
        elif self.loss == "student":
            inside = self.df * self.width**2 + r * r
            first = (self.df + 1) * self.width**2 * r / inside
            second = (self.df + 1) * self.width**2 * (2 * self.df * self.width**2 / inside - 1) / inside
        else:
            width = self.width
            first = np.clip(r, -width, width)
            second = (np.abs(r) <= width).astype(np.float64)
        side = self._side(r)
        return first * side, second * side

    def _side(self, r: FloatArray) -> FloatArray | float:
        return np.where(r > 0, self.over, 1.0) if self.over != 1.0 else 1.0
