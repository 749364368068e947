"""What every quantizer has: a spec, rounding and gradient by hand, a start from the first tensor it sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from qscale.formats import QuantSpec
from qscale.quantizers.gates import ScaledRounding

Scales = Sequence[Tensor]


class Quantizer(nn.Module):
    """Fake-quantizes a tensor, groups along its last axis.

    A call is differentiated by autograd. :meth:`rounded`, :meth:`again` and :meth:`gradient` are the same by
    hand, for nodes that do more than one thing at once; they are called without gradients.
    """

    #: The same input gives the same bits again, so that backward may compute it anew instead of keeping it.
    repeats = True

    def __init__(self, spec: QuantSpec) -> None:
        super().__init__()
        self.spec = spec
        self.text = str(spec)  # a text is found in a cache faster than a spec

    @property
    def learned(self) -> Tensor | None:
        """The parameter, where there is one."""
        return None

    def basis(self, x: Tensor) -> Tensor:
        """What is rounded: ``x`` itself, or rotated."""
        return x

    def from_basis(self, grad: Tensor) -> Tensor:
        """The gradient of ``x`` from that of :meth:`basis`."""
        return grad

    def forward(self, x: Tensor) -> Tensor:
        """Fake-quantize ``x``, groups along its last axis."""
        return _Quantized.apply(x, self.learned, self)  # type: ignore[no-untyped-call,no-any-return]

    def rounded(self, x: Tensor) -> tuple[Tensor, Scales]:
        """A basis rounded, and what :meth:`again` and :meth:`gradient` need beside it: scales, small."""
        raise NotImplementedError

    def again(self, x: Tensor, scales: Scales) -> Tensor:
        """A basis rounded once more."""
        raise NotImplementedError

    def gradient(self, grad: Tensor, x: Tensor, scales: Scales) -> tuple[Tensor, Tensor | None]:
        """The gradients of a basis and of the parameter, from that of what :meth:`rounded` gave."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return self.text


class ScaledQuantizer(Quantizer):
    """A quantizer that finds scales, then rounds with them; it says how in :meth:`scales`."""

    rounding: ScaledRounding

    def scales(self, x: Tensor) -> Scales:
        """The scales of ``x`` as the rounding takes them, then what else the parameter's gradient needs."""
        raise NotImplementedError

    def of_learned(self, sums: Tensor, scales: Scales) -> Tensor | None:  # noqa: ARG002
        """The parameter's gradient, from that of the scale of each group, ``(..., groups)``."""
        return None

    def rounded(self, x: Tensor) -> tuple[Tensor, Scales]:
        scales = self.scales(x)
        return self.rounding(x, scales[0]), scales

    def again(self, x: Tensor, scales: Scales) -> Tensor:
        return self.rounding(x, scales[0])

    def gradient(self, grad: Tensor, x: Tensor, scales: Scales) -> tuple[Tensor, Tensor | None]:
        of_x, sums = self.rounding.gradient(grad, x, scales[0])
        return of_x, None if self.learned is None else self.of_learned(sums, scales)


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

    def has_started(self) -> bool:
        """Whether the parameters have their values."""
        self._is_started = self._is_started or bool(self.started)
        return self._is_started

    def ensure_started(self, x: Tensor) -> None:
        """Have :meth:`start` called once in the life of the parameters."""
        if self._is_started or x.numel() == 0 or self.has_started():
            return
        with torch.no_grad():
            self.start(x.detach())
            self.started.fill_(True)
        self._is_started = True


class _Quantized(torch.autograd.Function):
    """A quantizer as a node: saves ``x`` and the scales, and can make the result again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, learned: Tensor | None, quantizer: Quantizer) -> Tensor:
        y, scales = quantizer.rounded(x)
        ctx.save_for_backward(x, learned, *scales)
        ctx.quantizer, ctx.taken, ctx.made, ctx.make_again = quantizer, None, None, _round_again
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, _, *scales = _taken(ctx)
        ctx.taken = ctx.made = None
        return *ctx.quantizer.gradient(grad, x, scales), None


def _taken(node: Any) -> tuple[Any, ...]:
    """What was saved, taken out once: activations that are computed again in backward are given once."""
    if node.taken is None:
        node.taken = node.saved_tensors
    taken: tuple[Any, ...] = node.taken
    return taken


def _round_again(node: Any) -> Tensor:
    if node.made is None:
        x, _, *scales = _taken(node)
        node.made = node.quantizer.again(x, scales)
    made: Tensor = node.made
    return made
