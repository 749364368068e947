"""One quantizer for the input that several layers have in common."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from qscale.formats import QuantSpec


class Shared(nn.Module):
    """Quantizes a tensor once for all the layers that take it: Q, K and V, or gate and up.

    ``users`` layers hold this module. The result for the tensor seen last is given again while it is the same
    object, unchanged, and is let go once each of them has had it; for another tensor, or with gradients
    turned on or off, it is computed anew. So layers that turn out to have different inputs get what is right
    for each. In a graph that torch.compile traces tensors have no versions: there a write into ``x`` between
    two layers is not seen.
    """

    def __init__(self, quantizer: nn.Module, users: int) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.users = users
        self._seen: Tensor | None = None
        self._result: Tensor | None = None
        self._key: tuple[int, bool, bool] | None = None
        self._left = 0

    def forward(self, x: Tensor) -> Tensor:
        """Quantize ``x``, or give what was made of it for the layer before."""
        version = 0 if torch.compiler.is_compiling() else x._version
        key = (version, torch.is_grad_enabled(), self.training)
        if x is not self._seen or key != self._key or self._result is None:
            self._seen, self._key, self._left = x, key, self.users
            self._result = self.quantizer(x)
        result: Tensor = self._result
        self._left -= 1
        if self._left <= 0:
            self._forget()
        return result

    @property
    def spec(self) -> QuantSpec | None:
        """That of the quantizer; None where it only rotates."""
        return self.quantizer.spec  # type: ignore[return-value]

    def _forget(self) -> None:
        self._seen = self._result = self._key = None
        self._left = 0

    def __getstate__(self) -> dict[str, Any]:
        self._forget()  # a result inside a graph can be neither copied nor pickled
        return self.__dict__
