"""The distributions whose quantization error is computed: the density of |x|, its integral, its reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qscale.errors import SpecError

Array: TypeAlias = NDArray[np.float64]
Distribution = Literal["gaussian", "laplace", "student_t"]

#: Nearer to 2 the variance of Student's t lies in values too rare to integrate over.
_LEAST_DF = 3.0
#: Of asinh|x|, where integrals are tabulated; the cubics between are off by less than 1e-13.
_STEP = 1 / 1024
_LEAST_MAGNITUDE = 1e-5
_BELOW_1 = 1 - 2.0**-53
#: How many of a group to expect above each edge between panels over its maximum, the width in asinh|x| of
#: panels beyond the last, and nodes in each.
_EXPECTED = (8.0, 1.0, 0.05, 1e-4)
_WIDTH, _NODES = 1.2, 10


@dataclass(frozen=True, eq=False)
class Density:
    """Of the magnitude |x| of a variate that is symmetric about 0."""

    pdf: Callable[[Array], Array]
    second_moment: float  #: E[x^2]
    end: float  #: of E[x^2] no more than about 1e-10 is beyond
    _beyond: Array = field(init=False, repr=False)  #: P(|x| > sinh(i * _STEP)), up to the end

    def __post_init__(self) -> None:
        # A density is smooth in asinh|x|: as in |x| about 0, as in log|x| in a tail.
        nodes, weights = gauss_legendre(6)
        places = _STEP * (np.arange(math.ceil(math.asinh(self.end) / _STEP))[:, None] + nodes)
        falls = self._slope(places) @ weights
        # Summed from the end: the chances of large values keep their digits.
        object.__setattr__(self, "_beyond", np.append(np.cumsum(falls[::-1])[::-1], 0.0))

    def _slope(self, t: NDArray[np.floating[Any]]) -> Array:
        """How fast asinh|x| gathers probability, by a step."""
        found: Array = self.pdf(np.sinh(t)) * np.cosh(t) * _STEP
        return found

    def beyond(self, magnitude: Array) -> Array:
        """P(|x| > magnitude); 0 from the end on."""
        t = np.arcsinh(np.minimum(magnitude, self.end))
        place = np.minimum(t // _STEP, len(self._beyond) - 2).astype(np.int64)
        way = t / _STEP - place
        left = self._beyond[place]
        fall = left - self._beyond[place + 1]
        # The cubic with the right values and slopes at both ends.
        too_steep = [self._slope(edge * _STEP) - fall for edge in (place, place + 1)]
        bend = (1 - way) * too_steep[0] - way * too_steep[1]
        inside: Array = left - way * (fall + (1 - way) * bend)
        return np.where(magnitude >= self.end, 0.0, inside)

    def exceeded(self, magnitude: Array, count: int) -> Array:
        """The chance that one of ``count`` magnitudes is larger."""
        found: Array = -np.expm1(count * np.log1p(-np.minimum(self.beyond(magnitude), _BELOW_1)))
        return found

    def least_maximum(self, count: int) -> float:
        """What the largest of ``count`` falls short of once in 1e18 times, or a magnitude near zero."""
        return max(math.sinh(self._exceeded_by(1 - 10.0 ** (-18 / count))), _LEAST_MAGNITUDE)

    def maxima(self, count: int, times: float = 1.0) -> tuple[Array, Array]:
        """Magnitudes, and weights to integrate over the largest of ``count`` with, or up to ``times`` that.

        Times the density and ``count`` and the chance that the others are below, the weights sum to 1.
        """
        marks = {self._exceeded_by(expected / count) for expected in _EXPECTED}
        marks |= {math.asinh(times * math.sinh(mark)) for mark in marks}
        edges = [math.asinh(self.least_maximum(count))]
        edges += [mark for mark in sorted(marks) if mark > edges[0] + _STEP]
        end = math.asinh(times * self.end)
        tail = np.linspace(edges[-1], end, max(2, math.ceil((end - edges[-1]) / _WIDTH)) + 1)
        places, weights = panels(np.append(edges[:-1], tail), _NODES)
        return np.sinh(places).ravel(), (weights * np.cosh(places)).ravel()

    def _exceeded_by(self, chance: float) -> float:
        """The asinh of a magnitude, about, that is exceeded by this chance; 0 where it is no chance."""
        return _STEP * max(int(np.searchsorted(-self._beyond, -chance)) - 1, 0)


def density(distribution: str, df: float) -> Density:
    """The density by its name; ``df`` counts for Student's t alone.

    Raises:
        SpecError: An unknown name, or fewer degrees of freedom than 3.
    """
    if distribution == "student_t":
        if not _LEAST_DF <= df < math.inf:
            raise SpecError(f"df={df}: Student's t is covered from {_LEAST_DF} degrees of freedom on")
        return _student_t(df)
    if distribution not in _FIXED:
        raise SpecError(f"unknown distribution {distribution!r}; known: {', '.join((*_FIXED, 'student_t'))}")
    return _fixed(distribution)


_FIXED: dict[str, Callable[[], Density]] = {
    "gaussian": lambda: Density(lambda x: math.sqrt(2 / math.pi) * np.exp(-0.5 * x * x), 1.0, 9.0),
    "laplace": lambda: Density(lambda x: np.exp(-x), 2.0, 45.0),
}


@lru_cache(maxsize=4)
def _fixed(name: str) -> Density:
    return _FIXED[name]()


@lru_cache(maxsize=16)
def _student_t(df: float) -> Density:
    power = (df + 1) / 2
    log_height = math.log(2) + math.lgamma(power) - math.lgamma(df / 2) - 0.5 * math.log(df * math.pi)

    def pdf(x: Array) -> Array:
        found: Array = np.exp(log_height - power * np.log(1 + x * x / df))
        return found

    end = 1.0
    while (
        end**3 * float(pdf(np.array(end))) > 1e-10
    ):  # beyond, x**2 times the density is no more than about that
        end *= 1.1
    return Density(pdf, df / (df - 2), end)


@lru_cache(maxsize=64)
def gauss_legendre(count: int) -> tuple[Array, Array]:
    """Nodes and weights on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(count)
    return (nodes + 1) / 2, weights / 2


def panels(edges: Array, count: int) -> tuple[Array, Array]:
    """Nodes and weights between each two ``edges``, a row each."""
    nodes, weights = gauss_legendre(count)
    widths = np.diff(edges)[:, None]
    return edges[:-1, None] + widths * nodes, widths * weights
