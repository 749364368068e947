"""The registered ops: schemas, shapes and gradients; and the functions that people call."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import DIALECTS, FORMATS, QuantSpec
from qscale.kernels import reference
from qscale.kernels.backends import on_reference

# csrc/bindings registers CPU kernels. `fake_quant_int` has a gradient; `_forward` is the same without, for
# the inside of autograd functions, and saves the 4 us a call of torch's fallback for ops that have none.
# `_reference` has no compiled kernel; it is an op because Inductor, given its parts, may drop the rounding to
# a 16-bit dtype at the end.
_FAKE_QUANT_INT = "(Tensor x, int qmin, int qmax, int denominator, int group_size)"
_SCHEMAS = (
    f"fake_quant_int{_FAKE_QUANT_INT} -> Tensor",
    f"fake_quant_int_forward{_FAKE_QUANT_INT} -> Tensor",
    f"fake_quant_int_reference{_FAKE_QUANT_INT} -> Tensor",
    f"fake_quant_int_out{_FAKE_QUANT_INT[:-1]}, Tensor(a!) out) -> ()",
    "cpu_isa() -> str",
    "use_cpu_isa(str name) -> ()",
)
_LIBRARY: Any = torch.library.Library("qscale", "DEF")  # type: ignore[no-untyped-call]
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema)

_forward = torch.ops.qscale.fake_quant_int_forward.default
_forward_reference = torch.ops.qscale.fake_quant_int_reference.default

IntArguments = tuple[int, int, int, int]  # qmin, qmax, denominator, group_size


class _StraightThrough(torch.autograd.Function):
    """Forward as asked, gradient unchanged; nothing is saved."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, arguments: IntArguments, run: Any) -> Tensor:
        return run(x, *arguments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def _with_gradient(x: Tensor, qmin: int, qmax: int, denominator: int, group_size: int) -> Tensor:
    arguments = (qmin, qmax, denominator, group_size)
    if torch.is_grad_enabled() and x.requires_grad:
        return _StraightThrough.apply(x, arguments, _forward)  # type: ignore[no-untyped-call,no-any-return]
    return _forward(x, *arguments)  # type: ignore[no-any-return]


def _fake(x: Tensor, *_: int, **__: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.no_grad()  # a kernel: what it does inside is no part of the graph
def _reference(x: Tensor, qmin: int, qmax: int, denominator: int, group_size: int) -> Tensor:
    return reference.fake_quant_int(x, qmin, qmax, denominator, group_size)


@torch.no_grad()
def _reference_out(x: Tensor, qmin: int, qmax: int, denominator: int, group_size: int, out: Tensor) -> None:
    out.copy_(reference.fake_quant_int(x, qmin, qmax, denominator, group_size))


def _fake_out(*_: Tensor | int, **__: Tensor | int) -> None:
    return None


def _register() -> None:
    """The reference serves every device whose compiled kernel is not there."""
    for name in ("fake_quant_int", "fake_quant_int_forward", "fake_quant_int_reference"):
        _LIBRARY.impl(name, _reference, "CompositeExplicitAutograd")
        torch.library.register_fake(f"qscale::{name}", _fake, lib=_LIBRARY)
    _LIBRARY.impl("fake_quant_int_out", _reference_out, "CompositeExplicitAutograd")
    torch.library.register_fake("qscale::fake_quant_int_out", _fake_out, lib=_LIBRARY)
    _LIBRARY.impl("fake_quant_int", _with_gradient, "Autograd")
    for name in ("fake_quant_int_forward", "fake_quant_int_reference", "fake_quant_int_out"):
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")


_register()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _plan(spec: QuantSpec | str) -> tuple[IntArguments, bool]:
    """The op's integer arguments for a spec, and whether the tensor is one group."""
    return _remembered_plan(spec)


@lru_cache(maxsize=1024)
def _remembered_plan(spec: QuantSpec | str) -> tuple[IntArguments, bool]:
    parsed = QuantSpec.parse(spec)
    arithmetic = parsed.int_arithmetic()
    if arithmetic is None:
        formats = ", ".join(row.name for row in FORMATS.values() if row.kind == "int" and row.block is None)
        dialects = ", ".join(row.name for row in DIALECTS.values() if row.full_range is not None)
        raise SpecError(
            f"fake_quant has no kernel for {parsed}; it has kernels for {formats}, "
            f"symmetric and without stochastic rounding, in the dialects {dialects}"
        )
    group_size = reference.WHOLE_AXIS if parsed.group_size is None else parsed.group_size
    arguments = (arithmetic.qmin, arithmetic.qmax, arithmetic.denominator, group_size)
    return arguments, parsed.strategy == "tensor"


def fake_quant(x: Tensor, spec: QuantSpec | str) -> Tensor:
    """Round ``x`` to a number format and back, group by group; the gradient passes straight through.

    Symmetric integers of b bits, each step in float32: ``s = max|x| / d`` over the group (true division),
    ``q = rint(x / s)`` with ties to even, clamped to ``[qmin, qmax]``, ``y = q * s``; then ``y`` is rounded
    to ``x.dtype``, ties to even. Dialect ``qscale``: ``d = qmax = -qmin = 2**(b-1) - 1``. Dialect
    ``chen2025``: ``d = -qmin = 2**(b-1)``, ``qmax = d - 1``, so a largest element above zero is clipped.

    A group whose scale is zero (all zeros, or so small that ``s`` underflows) gives zeros that keep the sign
    of ``x``. A group that holds a NaN or an infinity gives NaN throughout. Zeros keep their sign. ``y`` may
    exceed the largest ``|x|`` by a rounding of ``s``, and so be infinite where that is within a rounding of
    the largest float32.

    Args:
        x: ``(..., K)``, float32, bfloat16 or float16, any shape and strides. Not modified. A tensor of no
            dimensions has one element on its last axis.
        spec: Such as ``"int4:g128"``. Groups run along the last axis, whose last group may be short;
            ``channel`` and ``token`` make the whole last axis one group, ``tensor`` the whole of ``x``.

    Returns:
        Shape, dtype and device of ``x``, contiguous. Its gradient with respect to ``x`` is the identity, also
        where values are clipped; nothing is saved for backward.

    Raises:
        SpecError: ``spec`` cannot be read, its dialect does not define the format, or there is no kernel.
        BackendError: The dtype is another, or the backend that ``use_backend`` names cannot serve ``x``.

    Example:
        >>> fake_quant(torch.tensor([0.14, -0.7, 0.3]), "int4:g128")
        tensor([ 0.1000, -0.7000,  0.3000])

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3; gradient, Bengio et al. 2013 (arXiv:1308.3432).
    """
    arguments, whole_tensor = _plan(spec)
    run = _forward_reference if on_reference("fake_quant", x) else _forward
    shape = x.shape
    if whole_tensor:
        x = x.reshape(-1)
    if torch.is_grad_enabled() and x.requires_grad:
        y = _StraightThrough.apply(x, arguments, run)  # type: ignore[no-untyped-call]
    else:
        y = run(x, *arguments)
    return y.reshape(shape) if whole_tensor else y  # type: ignore[no-any-return]
