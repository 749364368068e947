"""The registered ops: schemas, shapes and gradients; and the functions that people call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.formats.calls import EMULATED, call_for, served
from qscale.kernels import reference
from qscale.kernels.backends import on_reference
from qscale.kernels.dialects import compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """A tensor in, one of its shape and dtype out; the gradient passes straight through."""

    name: str
    arguments: str  #: of the schema, after the tensor
    reference: Callable[..., Tensor]


def _emulated(x: Tensor, spec: str) -> Tensor:
    """A library's own arithmetic, in plain torch."""
    from qscale.kernels import dialects  # where one is asked for

    implementation = dialects.find(QuantSpec.parse(spec))
    if implementation is None:
        raise RuntimeError(f"{EMULATED}: {spec} has no emulation")
    return implementation(x).y.contiguous()


#: An op is one row here, a function in reference.py, and its kernels in csrc/bindings/fake_quant.cpp.
OPS = (
    Op(
        name="fake_quant_int",
        arguments="int qmin, int qmax, int denominator, int group_size, int rounding",
        reference=reference.fake_quant_int,
    ),
    Op(
        name="fake_quant_float",
        arguments="int mantissa_bits, int min_exponent, float largest, int group_size, int scale_rule, "
        "int rounding",
        reference=reference.fake_quant_float,
    ),
    Op(
        name="fake_quant_nvfp4",
        arguments="int group_size, int tensor_level, int rounding",
        reference=reference.fake_quant_nvfp4,
    ),
    Op(
        name="fake_quant_codebook",
        arguments="int codebook, int group_size",
        reference=reference.fake_quant_codebook,
    ),
    *(Op(name=op.name, arguments=op.arguments, reference=op.reference) for op in compiled.OPS),
    # No kernel is compiled for it, so the microsecond that a text costs does not matter.
    Op(name=EMULATED, arguments="str spec", reference=_emulated),
)

_LIBRARY: Any = torch.library.Library("qscale", "DEF")  # type: ignore[no-untyped-call]
_FORWARD: dict[str, Any] = {}
_REFERENCE: dict[str, Any] = {}


class _StraightThrough(torch.autograd.Function):
    """Forward as asked, gradient unchanged; nothing is saved."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, arguments: tuple[Any, ...], run: Any) -> Tensor:
        return run(x, *arguments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def _fake(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_out(*_: Any, **__: Any) -> None:
    return None


def _register(op: Op) -> None:
    """Four ops for each: the one with a gradient and three without.

    csrc/bindings registers CPU kernels for ``<name>``, ``<name>_forward`` and ``<name>_out``; the reference
    serves every device whose compiled kernel is not there. ``_forward``, for the inside of autograd
    functions, saves the 4 us a call of torch's fallback for ops that have no gradient. ``_reference`` has no
    compiled kernel; it is an op because Inductor, given its parts, may drop the rounding to a 16-bit dtype
    at the end.
    """
    _LIBRARY.define(f"{op.name}(Tensor x, {op.arguments}) -> Tensor")
    _LIBRARY.define(f"{op.name}_forward(Tensor x, {op.arguments}) -> Tensor")
    _LIBRARY.define(f"{op.name}_reference(Tensor x, {op.arguments}) -> Tensor")
    _LIBRARY.define(f"{op.name}_out(Tensor x, {op.arguments}, Tensor(a!) out) -> ()")
    namespace = torch.ops.qscale
    forward = _FORWARD[op.name] = getattr(namespace, f"{op.name}_forward").default
    _REFERENCE[op.name] = getattr(namespace, f"{op.name}_reference").default

    @torch.no_grad()  # a kernel: what it does inside is no part of the graph
    def run(x: Tensor, *arguments: Any) -> Tensor:
        return op.reference(x, *arguments)

    @torch.no_grad()
    def run_out(x: Tensor, *arguments: Any) -> None:
        *numbers, out = arguments
        out.copy_(op.reference(x, *numbers))

    def with_gradient(x: Tensor, *arguments: Any) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return _StraightThrough.apply(x, arguments, forward)  # type: ignore[no-untyped-call,no-any-return]
        return forward(x, *arguments)  # type: ignore[no-any-return]

    for name in (op.name, f"{op.name}_forward", f"{op.name}_reference"):
        _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
        torch.library.register_fake(f"qscale::{name}", _fake, lib=_LIBRARY)
    _LIBRARY.impl(f"{op.name}_out", run_out, "CompositeExplicitAutograd")
    torch.library.register_fake(f"qscale::{op.name}_out", _fake_out, lib=_LIBRARY)
    _LIBRARY.impl(op.name, with_gradient, "Autograd")
    for name in (f"{op.name}_forward", f"{op.name}_reference", f"{op.name}_out"):
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")


_LIBRARY.define("cpu_isa() -> str")
_LIBRARY.define("use_cpu_isa(str name) -> ()")
_LIBRARY.define("keep_logarithms(Tensor tables) -> ()")
_LIBRARY.impl("keep_logarithms", _fake_out, "CompositeExplicitAutograd")
for _op in OPS:
    _register(_op)
compiled.keep_logarithms()


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _plan(spec: QuantSpec | str) -> tuple[str, tuple[Any, ...], bool, int]:
    """The op that computes a spec, its arguments, whether the tensor is one axis, and the groups it is cut in."""
    return _remembered_plan(spec)


@lru_cache(maxsize=1024)
def _remembered_plan(spec: QuantSpec | str) -> tuple[str, tuple[Any, ...], bool, int]:
    parsed = QuantSpec.parse(spec)
    call = call_for(parsed)
    if call is None:
        raise SpecError(f"fake_quant has no kernel for {parsed}; it has kernels for {served()}")
    return call.op, call.arguments, call.whole_tensor, call.whole_groups


def fake_quant(x: Tensor, spec: QuantSpec | str) -> Tensor:
    """Round ``x`` to a number format and back, group by group; the gradient passes straight through.

    In dialect ``qscale`` each step below is one float32 operation. ``s`` is the scale of a group whose
    largest magnitude is ``a``; ``q`` is the value of the format nearest to ``x / s`` (true division; a tie
    goes to the even code, with ``away`` to the larger magnitude), saturated; ``y = q * s`` is rounded to
    ``x.dtype``, ties to even. Values and codes: ``qscale.formats.grids``.

    - ``int<b>``: ``s = a / (2**(b-1) - 1)``, codes ``-(2**(b-1) - 1)`` to ``2**(b-1) - 1``. Dialect
      ``chen2025``: ``s = a / 2**(b-1)``, codes from ``-2**(b-1)``: a largest element above zero is clipped.
    - ``fp<bits>_e<E>m<M>``, ``fp_e<E>m<M>``: ``s = a / max``, subnormals kept.
    - ``mx*``, blocks of 32: ``s = 2**e``, ``e`` clamped to -127 to 127 (E8M0). With ``emax`` the exponent of
      ``max``: ``floor`` (the default) ``e = floor(log2 a) - emax``; ``ceil`` ``ceil(log2 a) - emax``;
      ``rceil`` ``ceil(log2(a / max))``; ``even`` as floor, of ``a`` rounded, halves up, to the element's
      mantissa.
    - ``nvfp4``, blocks of 16: ``t = max|x| / 2688`` over the tensor, ``s = e4m3((a / 6) / t) * t``, ties to
      even whatever the option; ``onelevel`` has ``t = 1``.
    - ``nf4``, ``fp4_bnb``: ``s = a``, the nearest of 16 values by float32 midpoints; a midpoint goes down.

    Where ``s`` or ``t`` is zero (zeros, or so small that it underflows) it is 1, which gives zeros; a block
    of ``nvfp4`` too small for its tensor gives zeros. (With 8 exponent bits small groups do not vanish.)
    Zeros keep the sign of ``x``. A group that holds a NaN or an infinity gives NaN throughout, and so does
    the tensor under ``nvfp4`` with its tensor scale. ``y`` may exceed the largest ``|x|`` by a rounding, and
    so be infinite where that is within a rounding of the largest float32.

    Other dialects follow their libraries bit by bit, in plain torch (``qscale.kernels.dialects``).

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
        >>> fake_quant(torch.tensor([0.14, -0.7, 0.3]), "mxfp4")
        tensor([ 0.1250, -0.7500,  0.2500])

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3; OCP Microscaling Formats 1.0; nf4, Dettmers et
    al. 2023 (arXiv:2305.14314); gradient, Bengio et al. 2013 (arXiv:1308.3432).
    """
    op, arguments, whole_tensor, group = _plan(spec)
    if group > 1 and not torch.compiler.is_compiling():  # the op checks there
        compiled.check_groups(x, group, spec)
    run = (_REFERENCE if on_reference("fake_quant", x, compiled=op != EMULATED) else _FORWARD)[op]
    shape = x.shape
    if whole_tensor:
        x = x.reshape(-1)
    if torch.is_grad_enabled() and x.requires_grad:
        y = _StraightThrough.apply(x, arguments, run)  # type: ignore[no-untyped-call]
    else:
        y = run(x, *arguments)
    return y.reshape(shape) if whole_tensor else y  # type: ignore[no-any-return]
