"""Rounding with given scales and its gradient: one op each way."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import plan, scale_shape
from qscale.kernels.ops import implementation
from qscale.kernels.reference import GATES

Gate = Literal["clipped", "lsq"]


class ScaledRounding:
    """``fake_quant`` with given scales and the gradient ``clipped`` or ``lsq``, planned once for a spec.

    Scales are float32 and contiguous: one for each group, or one for each group of a row, which then serve
    all rows. ``zero_point`` is that of all groups, for specs with ``asym``; it has no gradient.
    """

    def __init__(
        self,
        spec: QuantSpec,
        gate: Gate,
        gradient_scale: float = 1.0,
        zero_point: float | None = None,
    ) -> None:
        self.gate, self.gradient_scale, self.zero_point = GATES[gate], gradient_scale, zero_point
        self.op, self.arguments, _, _ = plan(str(spec))
        self._zeros: dict[torch.device, Tensor] = {}

    def __call__(self, x: Tensor, scale: Tensor) -> Tensor:
        """``x`` rounded, without a gradient."""
        run = implementation(self.op, "_given", on_reference("fake_quant", x))
        return run(x, scale, self._zero(scale), *self.arguments)  # type: ignore[no-any-return]

    def gradient(self, grad: Tensor, x: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Of ``x``, and of the scale of each group, ``(..., groups)``, not yet times ``gradient_scale``."""
        run = implementation(self.op, "_gradient", on_reference("fake_quant", x))
        of_x, sums, _ = run(grad, x, scale, self._zero(scale), self.gate, 0.0, *self.arguments)
        return of_x, sums.view(scale_shape(x.shape, *self.arguments[-4:-2]))

    def _zero(self, scale: Tensor) -> Tensor | None:
        """The zero point as the ops take it: one number is that of all groups."""
        if self.zero_point is None:
            return None
        if torch.compiler.is_compiling():  # a tensor of the graph is not to be kept
            return scale.new_full((1,), self.zero_point)
        if scale.device not in self._zeros:
            self._zeros[scale.device] = scale.new_full((1,), self.zero_point)
        return self._zeros[scale.device]
