"""When a run has diverged: a number that is not finite, or a loss that rises and stays up. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qscale.errors import QScaleError

_MOMENTUM = 0.02  # of the moving average: about 50 steps
_RISE = 1.0  # nats above the lowest average so far
_SETTLING = 50  # steps until the average is one


class DivergedError(QScaleError):
    """Training cannot lead anywhere any more."""

    def __init__(self, step: int, why: str) -> None:
        super().__init__(f"training diverged at step {step}: {why}")
        self.step = step


@dataclass(slots=True)
class Monitor:
    """Watches the losses of one phase of training.

    A run has diverged where a loss or a gradient is not finite, and where the moving average of the loss
    (momentum 0.02, steps weighed alike at first) is 1 nat above its lowest value so far. A spike from which
    the loss comes back within some tens of steps is none. The threshold is a choice of our own.

    Example:
        >>> monitor = Monitor()
        >>> for step in range(200):
        ...     monitor.see(step, 3.0, 0.5)
        >>> monitor.see(200, float("nan"), 0.5)
        Traceback (most recent call last):
            ...
        qscale.training.monitor.DivergedError: training diverged at step 200: the loss is nan
    """

    seen: int = 0
    average: float = 0.0
    lowest: float = math.inf

    def see(self, step: int, loss: float, gradient: float) -> None:
        """Take in one step.

        Raises:
            DivergedError: The run has diverged.
        """
        for name, value in (("loss", loss), ("gradient's norm", gradient)):
            if not math.isfinite(value):
                raise DivergedError(step, f"the {name} is {value}")
        self.seen += 1
        self.average += max(_MOMENTUM, 1 / self.seen) * (loss - self.average)
        if self.seen < _SETTLING:
            return
        self.lowest = min(self.lowest, self.average)
        if self.average > self.lowest + _RISE:
            raise DivergedError(
                step, f"the loss rose to {self.average:.3g}, from {self.lowest:.3g} at best, and stays there"
            )
