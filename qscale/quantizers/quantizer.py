"""What every quantizer has: a spec, and a way to start from the first tensor that it sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec


class Quantizer(nn.Module):
    """Fake-quantizes a tensor, groups along its last axis."""

    #: The same input gives the same bits again, so that backward may compute it anew instead of keeping it.
    repeats = True

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.text = str(spec)  # a text is found in a cache faster than a spec

    def extra_repr(self) -> str:
        return self.text


class LazyQuantizer(Quantizer):
    """A quantizer whose parameters take their values from the first tensor that it sees.

    They are the parameters' values from then on; the buffer ``started`` goes into checkpoints, so a run that
    is resumed does not start them anew. Processes that see different first batches start differently.
    """

    started: Tensor

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__(spec)
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._is_started = False  # a read of the buffer costs a microsecond, and on a GPU a wait

    def start(self, x: Tensor) -> None:
        """Set the parameters from ``x``, under ``no_grad``."""
        raise NotImplementedError

    def ensure_started(self, x: Tensor) -> None:
        """Have :meth:`start` called once in the life of the parameters."""
        if self._is_started or x.numel() == 0:
            return
        if not bool(self.started):
            with torch.no_grad():
                self.start(x.detach())
                self.started.fill_(True)
        self._is_started = True
