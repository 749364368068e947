"""``fake_quant``: what people call, and its gradients."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from qscale.errors import SpecError
from qscale.formats import DIALECTS, QuantSpec
from qscale.formats.calls import EMULATED, FAMILIES, WHOLE_AXIS, call_for, served
from qscale.formats.grids import values
from qscale.kernels.backends import on_reference
from qscale.kernels.dialects import compiled
from qscale.kernels.ops import StraightThrough, implementation
from qscale.kernels.reference import GATES

Gradient = Literal["straight_through", "clipped", "lsq", "trust"]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def plan(spec: QuantSpec | str) -> tuple[str, tuple[Any, ...], bool, int]:
    """Op and arguments of a spec, whether the tensor is one axis, what that must be a multiple of."""
    return _remembered_plan(spec)


@lru_cache(maxsize=1024)
def _remembered_plan(spec: QuantSpec | str) -> tuple[str, tuple[Any, ...], bool, int]:
    parsed = QuantSpec.parse(spec)
    call = call_for(parsed)
    if call is None and DIALECTS[parsed.dialect].scale_is_given:
        raise SpecError(f"{parsed}: dialect {parsed.dialect!r} has no scale of its own; give one, scale=...")
    if call is None:
        raise SpecError(f"fake_quant has no kernel for {parsed}; it has kernels for {served()}")
    return call.op, call.arguments, call.whole_tensor, call.whole_groups


def fake_quant(
    x: Tensor,
    spec: QuantSpec | str,
    *,
    scale: Tensor | None = None,
    zero_point: Tensor | None = None,
    gradient: Gradient = "straight_through",
    gradient_scale: float | Literal["lsq"] = 1.0,
    trust: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """Round ``x`` to a number format and back, group by group.

    In dialect ``qscale`` each step below is one float32 operation. ``s`` is the scale of a group whose
    largest magnitude is ``a``; ``q`` is the value of the format nearest to ``x / s`` (true division; a tie
    goes to the even code, with ``away`` to the larger magnitude), saturated; ``y = q * s`` is rounded to
    ``x.dtype``, ties to even. Values and codes: ``qscale.formats.grids``.

    - ``int<b>``: ``s = a / (2**(b-1) - 1)``, codes from ``-(2**(b-1) - 1)`` to ``2**(b-1) - 1``; with
      ``full`` ``s = a / (2**(b-1) - 1/2)``, codes from ``-2**(b-1)``. Dialect ``chen2025``: ``s = a /
      2**(b-1)``, codes from ``-2**(b-1)``: a largest element above zero is clipped.
    - ``int<b>`` with ``asym``: ``s = h / (2**(b-1) - 1/2)`` with ``h = max/2 - min/2``, or ``|min|`` where
      that is 0; min and max take in 0; ``z = clamp(-rint(min / s))``, codes ``clamp(round(x / s) + z)`` from
      0 to ``2**b - 1``, ``y = (q - z) * s``. With ``floatzero`` 0 need not be in the range, ``z = -min / s``,
      codes ``clamp(round(x / s + z))``.
    - ``fp<bits>_e<E>m<M>``, ``fp_e<E>m<M>``: ``s = a / max``, subnormals kept.
    - ``mx*``, blocks of 32: ``s = 2**e``, ``e`` clamped to -127 to 127 (E8M0). With ``emax`` the exponent of
      ``max``: ``floor`` (the default) ``e = floor(log2 a) - emax``; ``ceil`` ``ceil(log2 a) - emax``;
      ``rceil`` ``ceil(log2(a / max))``; ``even`` as floor, of ``a`` rounded, halves up, to the element's
      mantissa.
    - ``nvfp4``, blocks of 16: ``t = max|x| / 2688`` over the tensor, ``s = e4m3((a / 6) / t) * t``, ties to
      even whatever the option; ``onelevel`` has ``t = 1``.
    - ``nf4``, ``fp4_bnb``, ``dint4``: ``s = a``, the nearest of 16 values by float32 midpoints; a midpoint
      goes down. The half step of ``dint4`` is unverified.
    - ``scale_input``, ``scale_fp16``, ``scale_bf16``: ``s`` rounded to that type, saturating, ties to even;
      ``scale_e4m3``: as for nvfp4, with the format's own largest value for 6; ``scale_e8m0``: ``rceil``.
    - ``stochastic``: with ``v`` between two values, the larger magnitude is taken with the probability of the
      way gone to it, in steps of 2**-24, by word ``i`` of Philox under ``seed`` for element ``i`` of the
      tensor, counted row by row (``qscale.kernels.philox``).

    Where ``s`` is zero, every element becomes a zero; where ``t`` is, it is 1. Zeros keep the sign of ``x``
    in formats that have two; integers, fixed point and codebooks have one. A group that holds a NaN or an
    infinity gives NaN throughout, and so does the tensor where it has a scale. ``y`` may exceed the largest
    ``|x|`` by a rounding, and so be infinite where that is within a rounding of the largest float32.

    Other dialects follow their libraries bit by bit (``qscale.kernels.dialects``). ``aten`` has codes from
    ``-2**(b-1)`` and no scale of its own: it is given, and with it a zero point where there is one.

    Args:
        x: ``(..., K)``, float32, bfloat16 or float16, any shape and strides. Not modified. A tensor of no
            dimensions has one element on its last axis.
        spec: Such as ``"int4:g128"``. Groups run along the last axis, whose last group may be short;
            ``channel`` and ``token`` make the whole last axis one group, ``tensor`` the whole of ``x``;
            ``b<edge>`` are squares of the last two axes, cut off at the ends.
        scale: The scales, in place of those above: a shape that expands to ``(..., groups)``, for squares
            ``(..., bands, groups)``; computed with in float32. Meant to be positive. A NaN among ``x`` then
            stays alone, an infinity saturates.
        zero_point: With ``asym`` and ``scale``: likewise. Rounded to an integer, ties to even, unless
            ``floatzero``.
        gradient: What passes to ``x``: ``straight_through`` all of it; ``clipped`` where the rounded code is
            in range; ``lsq`` where the code before rounding is; ``trust`` where ``|y - x|`` is at most
            ``trust`` half steps at the largest value. Own scales have no gradient. A given scale gets the sum
            over its group of ``g * (q - x / s)`` in range and ``g * q`` beyond (with a zero point ``q - z``
            for ``q``), a zero point that of ``-g * s`` beyond: float32 products, added in float64. In range
            is the rounded code, with ``lsq`` the code before. In dialect ``aten`` ``clipped`` is the
            library's own, ``lsq`` that of its learnable op, where alone scale and zero point have gradients.
        gradient_scale: A factor of the gradients of scale and zero point; ``"lsq"`` is
            ``1 / sqrt(numel * qmax)``.
        trust: For ``gradient="trust"``, in half steps.
        seed: Of stochastic rounding, any int64. The same seed gives the same bits on every device.

    Returns:
        Shape, dtype and device of ``x``, contiguous. ``straight_through`` with own scales saves nothing for
        backward, other gradients ``x`` itself and the given scales.

    Raises:
        SpecError: ``spec`` cannot be read, its dialect does not define the format, there is no kernel, or an
            argument does not go with it.
        BackendError: The dtype is another, or the backend that ``use_backend`` names cannot serve ``x``.

    Example:
        >>> fake_quant(torch.tensor([0.14, -0.7, 0.3]), "int4:g128")
        tensor([ 0.1000, -0.7000,  0.3000])
        >>> fake_quant(torch.tensor([0.14, -0.7, 0.3]), "mxfp4")
        tensor([ 0.1250, -0.7500,  0.2500])
        >>> fake_quant(torch.tensor([0.1, -3.0, 0.9]), "int4:g128", scale=torch.tensor(0.25))
        tensor([ 0.0000, -1.7500,  1.0000])

    Source: Jacob et al. 2018 (arXiv:1712.05877), section 3; OCP Microscaling Formats 1.0; nf4, Dettmers et
    al. 2023 (arXiv:2305.14314); dint4, Lee et al. 2023 (EMNLP); gradients: Bengio et al. 2013
    (arXiv:1308.3432), Esser et al. 2020 (LSQ, arXiv:1902.08153), Panferov et al. 2025 (QuEST,
    arXiv:2502.05003).
    """
    if scale is not None or zero_point is not None or gradient != "straight_through" or seed:
        return _with_options(x, spec, scale, zero_point, gradient, gradient_scale, trust, seed)
    op, arguments, whole_tensor, group = plan(spec)
    if group > 1 and not torch.compiler.is_compiling():  # the op checks there
        compiled.check_groups(x, group, spec)
    run = implementation(op, "", on_reference("fake_quant", x, compiled=op != EMULATED))
    shape = x.shape
    if whole_tensor:
        x = x.reshape(-1)
    if torch.is_grad_enabled() and x.requires_grad:
        y = StraightThrough.apply(x, arguments, run)  # type: ignore[no-untyped-call]
    else:
        y = run(x, *arguments)
    return y.reshape(shape) if whole_tensor else y  # type: ignore[no-any-return]


def round_with_feedback(
    x: Tensor, factor: Tensor, spec: QuantSpec | str, *, scale: Tensor, zero_point: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Round columns one after the other, the error of each fed into those after it.

    ``y_i`` is what :func:`fake_quant` makes of column ``x_i`` in float32 under its scales; with
    ``e_i = (x_i - y_i) / u_ii`` columns ``j > i`` become ``x_j - u_ij e_i``, in float64, one operation at a
    time.

    Args:
        x: ``(columns, rows)``, float64: each column is a row of it. Not modified.
        factor: ``u``, ``(columns, columns)``, float64; read on and above the diagonal.
        spec: The format, without ``stochastic``; its groups do not matter.
        scale: One for each element, float32, or what expands to ``x``.
        zero_point: With ``asym``: likewise.

    Returns:
        ``y``, float32, and ``e``, float64, both of the shape of ``x``.

    Raises:
        SpecError: As of :func:`fake_quant` with given scales.
        BackendError: The backend that ``use_backend`` names cannot serve ``x``.

    Example:
        >>> x, factor = torch.tensor([[0.2], [0.4]]).double(), torch.tensor([[1.0, 0.5], [0.0, 1.0]]).double()
        >>> round_with_feedback(x, factor, "int4:channel", scale=torch.tensor(0.25))[0].tolist()
        [[0.25], [0.5]]

    Source: Frantar et al. 2022 (GPTQ, arXiv:2210.17323), algorithm 1, the inner loop.
    """
    demands(spec, "straight_through", True, zero_point is not None)
    op, arguments, _, _ = plan(spec)
    run = implementation(op, "_feedback", on_reference("round_with_feedback", x, dtype=torch.float32))
    given = [None if t is None else t.float().expand(x.shape).contiguous() for t in (scale, zero_point)]
    return run(x, factor, *given, *arguments)  # type: ignore[no-any-return]


def _with_options(
    x: Tensor,
    spec: QuantSpec | str,
    scale: Tensor | None,
    zero_point: Tensor | None,
    gradient: Gradient,
    gradient_scale: float | Literal["lsq"],
    trust: float,
    seed: int,
) -> Tensor:
    gate, half_step, end = demands(spec, gradient, scale is not None, zero_point is not None)
    if seed:
        demand_chance(spec)
    if gradient_scale == "lsq":
        gradient_scale = 1 / math.sqrt(max(1, x.numel()) * end)
    if scale is not None and (call := aten_call(spec)) is not None:
        return _aten(x, call, scale, zero_point, gate, gradient_scale)
    op, arguments, whole_tensor, _ = plan(spec)
    reference = on_reference("fake_quant", x)
    arguments, reach = (*arguments[:-1], seed), trust * half_step
    shape = x.shape
    if whole_tensor:
        x = x.reshape(-1)
    if scale is None:
        if gate:
            y = _Gated.apply(x, op, arguments, gate, reach, reference)  # type: ignore[no-untyped-call]
        else:
            y = StraightThrough.apply(x, arguments, implementation(op, "", reference))  # type: ignore[no-untyped-call]
        return y.reshape(shape)  # type: ignore[no-any-return]
    wanted = scale_shape(x.shape, *arguments[-4:-2])
    given = [None if t is None else one_each(t, wanted, x) for t in (scale, zero_point)]
    y = _Given.apply(x, *given, op, arguments, gate, reach, gradient_scale, reference)  # type: ignore[no-untyped-call]
    return y.reshape(shape)  # type: ignore[no-any-return]


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def demands(
    spec: QuantSpec | str, gradient: str, has_scale: bool, has_zero_point: bool
) -> tuple[int, float, float]:
    """The gate, half a step and the largest value of a spec, with which the options must go."""
    return _remembered_demands(spec, gradient, has_scale, has_zero_point)


@lru_cache(maxsize=1024)
def _remembered_demands(
    text: QuantSpec | str, gradient: str, has_scale: bool, has_zero_point: bool
) -> tuple[int, float, float]:
    spec = QuantSpec.parse(text)
    is_aten = has_scale and DIALECTS[spec.dialect].scale_is_given
    if not is_aten and _remembered_plan(spec)[0] not in FAMILIES:
        raise SpecError(f"{spec}: dialect {spec.dialect!r} has its own scales, rounding and gradient")
    if gradient not in GATES:
        raise SpecError(f"unknown gradient {gradient!r}; known: {', '.join(GATES)}")
    if is_aten and gradient == "trust":
        raise SpecError(f"{spec}: dialect {spec.dialect!r} has no gradient 'trust'")
    if has_zero_point and not has_scale:
        raise SpecError(f"{spec}: a zero point is given and no scale")
    if has_scale and spec.has_tensor_scale:
        raise SpecError(f"{spec}: a given scale is the whole of it; give the spec with :onelevel")
    if has_scale and has_zero_point == spec.symmetric and not (is_aten and spec.symmetric):
        raise SpecError(f"{spec}: a zero point is given with the scale where the spec is :asym, else not")
    return GATES[gradient], half_step(spec), values_end(spec)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def demand_chance(spec: QuantSpec | str) -> None:
    """A seed is of use."""
    if QuantSpec.parse(spec).rounding != "stochastic":
        raise SpecError(f"{spec} rounds without chance: a seed goes with :stochastic")


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def aten_call(spec: QuantSpec | str) -> tuple[int, int, int, bool] | None:
    """The ends, the group and whether the tensor is one axis, where a spec is in dialect aten."""
    parsed = QuantSpec.parse(spec)
    if not DIALECTS[parsed.dialect].scale_is_given:
        return None
    half = 2 ** (parsed.num_bits - 1)
    group = WHOLE_AXIS if parsed.group_size is None else parsed.group_size
    return -half, half - 1, group, parsed.strategy == "tensor"


def _aten(
    x: Tensor,
    call: tuple[int, int, int, bool],
    scale: Tensor,
    zero_point: Tensor | None,
    gate: int,
    gradient_scale: float,
) -> Tensor:
    """Dialect aten: one channel of the library to a group, which therefore must be whole."""
    qmin, qmax, group, whole_tensor = call
    on_reference("fake_quant", x, compiled=False)
    if gate != GATES["lsq"] and (
        scale.requires_grad or (zero_point is not None and zero_point.requires_grad)
    ):
        raise SpecError(
            "fake_quant: in dialect 'aten' scale and zero point have gradients with gradient='lsq'"
        )
    flat = x.reshape(-1) if whole_tensor or not x.dim() else x
    axis = flat.shape[-1]
    length = axis if group == WHOLE_AXIS else group
    if axis and axis % length:
        raise SpecError(f"fake_quant: the last axis has {axis} elements; aten takes whole groups of {length}")
    wanted = scale_shape(flat.shape, group, 1)
    scale = one_each(scale, wanted, flat)
    zero_point = torch.zeros_like(scale) if zero_point is None else one_each(zero_point, wanted, flat)
    channels = x.reshape(scale.numel(), length)
    y = _Aten.apply(channels, scale, zero_point, qmin, qmax, gate, gradient_scale, whole_tensor)  # type: ignore[no-untyped-call]
    return y.reshape(x.shape)  # type: ignore[no-any-return]


def scale_shape(shape: torch.Size, group_size: int, block_rows: int) -> tuple[int, ...]:
    """The shape of the scales beside a tensor: groups in place of the last axis, bands in place of rows."""
    axis = shape[-1] if shape else 1
    group = max(1, axis if group_size == WHOLE_AXIS else min(group_size, axis))
    groups = -(-axis // group)
    if block_rows == 1 or len(shape) < 2:
        return (*shape[:-1], groups)
    edge = max(1, min(block_rows, shape[-2]))
    return (*shape[:-2], -(-shape[-2] // edge), groups)


def one_each(given: Tensor, shape: tuple[int, ...], x: Tensor) -> Tensor:
    """One float32 for each group, flat."""
    try:
        spread = given.to(torch.float32).expand(shape)  # in this order a gradient is added up in float32
    except RuntimeError:
        raise SpecError(
            f"fake_quant: scales or zero points of shape {list(given.shape)} beside x of shape "
            f"{list(x.shape)}; wanted {list(shape)}, or what can be expanded to it"
        ) from None
    return spread.reshape(-1).contiguous()


def values_end(spec: QuantSpec) -> float:
    """The largest value of the format in units of its scale."""
    integers = spec.int_arithmetic()
    return values(spec.format)[-1] if integers is None else float(integers.qmax)


def half_step(spec: QuantSpec) -> float:
    """Half the distance between the two largest values, in units of the scale."""
    if spec.int_arithmetic() is not None:
        return 0.5
    last = values(spec.format)[-2:]
    return (last[1] - last[0]) / 2


class _Gated(torch.autograd.Function):
    """Scales of the groups' own, which have no gradient; they are computed again for backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, op: str, arguments: tuple[Any, ...], gate: int, trust: float, reference: bool
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.arguments = (op, arguments, gate, trust, reference)
        return implementation(op, "", reference)(x, *arguments)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        op, arguments, gate, trust, reference = ctx.arguments
        (x,) = ctx.saved_tensors
        scale, zero, level = implementation(op, "_scales", reference)(x, *arguments)
        run = implementation(op, "_gradient", reference)
        grad_x, _, _ = run(grad, x, scale * level, zero, gate, trust, *arguments)
        return grad_x, *[None] * 5


class _Given(torch.autograd.Function):
    """Scales of the caller, and their gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor | None,
        op: str,
        arguments: tuple[Any, ...],
        gate: int,
        trust: float,
        gradient_scale: float,
        reference: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, scale, zero_point)
        ctx.arguments = (op, arguments, gate, trust, gradient_scale, reference)
        run = implementation(op, "_given", reference)
        return run(x, scale, zero_point, *arguments)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        op, arguments, gate, trust, gradient_scale, reference = ctx.arguments
        x, scale, zero_point = ctx.saved_tensors
        run = implementation(op, "_gradient", reference)
        grad_x, grad_scale, grad_zero = run(grad, x, scale, zero_point, gate, trust, *arguments)
        if gradient_scale != 1.0:
            grad_scale, grad_zero = grad_scale * gradient_scale, grad_zero * gradient_scale
        return (grad_x, grad_scale, None if zero_point is None else grad_zero, *[None] * 6)


class _Aten(torch.autograd.Function):
    """The library's channels, and its gradients: clipped, or with learned scales."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        qmin: int,
        qmax: int,
        gate: int,
        gradient_scale: float,
        per_tensor: bool,
    ) -> Tensor:
        ctx.save_for_backward(*((x, scale, zero_point) if gate else ()))
        ctx.arguments = (qmin, qmax, gate, gradient_scale, per_tensor)
        whole = zero_point.round().clamp(qmin, qmax)
        return torch.ops.qscale.fake_quant_aten(x, scale, whole, qmin, qmax)  # type: ignore[no-any-return]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from qscale.kernels.dialects import aten  # where it is asked for

        qmin, qmax, gate, gradient_scale, per_tensor = ctx.arguments
        if not gate:
            return grad, *[None] * 7
        x, scale, zero_point = ctx.saved_tensors
        if gate == GATES["clipped"]:
            whole = zero_point.round().clamp(qmin, qmax)
            return aten.fake_quantize_backward(grad, x, scale, whole, qmin, qmax), *[None] * 7
        call = (grad, x, scale, zero_point, qmin, qmax)
        learned = aten.learnable_backward(*call, grad_factor=gradient_scale, per_tensor=per_tensor)
        return *learned, *[None] * 5
