"""The annealing of a recipe: its text, and what it means. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from qscale.errors import SpecError

_RADIUS = 0.005


@dataclass(frozen=True, slots=True)
class Anneal:
    """Confidence-guided annealing: over the last steps only weights near a rounding boundary move.

    Text: ``<fraction>`` or ``<fraction>:<radius>``. See :class:`qscale.quantizers.Annealing`.

    Raises:
        SpecError: The fraction is not in (0, 1), or the radius not in [0, 1/2].

    Example:
        >>> Anneal.parse("0.1")
        Anneal(fraction=0.1, radius=0.005)
        >>> str(Anneal.parse("0.10:0.007")), str(Anneal.parse("0.1:0.005"))
        ('0.1:0.007', '0.1')
    """

    fraction: float  #: of all steps of a run
    radius: float = _RADIUS  #: around a boundary, in steps between codes

    def __post_init__(self) -> None:
        if not 0 < self.fraction < 1:
            raise SpecError(f"anneal={self}: the fraction of the steps lies between 0 and 1")
        if not 0 <= self.radius <= 0.5:
            raise SpecError(f"anneal={self}: the radius lies in [0, 0.5], in steps between codes")

    @classmethod
    def parse(cls, text: str) -> Anneal:
        """Read it from its text.

        Raises:
            SpecError: It cannot be read, or a number is out of range.
        """
        try:
            return cls(*(float(part) for part in text.split(":")))
        except (AttributeError, TypeError, ValueError) as error:
            if isinstance(error, SpecError):
                raise
            raise SpecError(
                f"anneal={text!r} cannot be read: use the last part of the steps, such as 0.1, or 0.1:0.007 "
                "with a radius"
            ) from error

    def __str__(self) -> str:
        return f"{self.fraction!r}" + ("" if self.radius == _RADIUS else f":{self.radius!r}")
