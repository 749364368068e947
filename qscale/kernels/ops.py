"""The registered ops of fake quantization: schemas, shapes and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qscale.formats import QuantSpec
from qscale.formats.calls import EMULATED, WHOLE_AXIS
from qscale.kernels import backends, reference  # noqa: F401 - backends loads the compiled kernels
from qscale.kernels.dialects import compiled


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """The ops of one kind of element: each takes the element's arguments, then ``OPTIONS``."""

    name: str
    arguments: str
    element: Callable[..., reference.Element]


#: A family is one row here, a class in reference.py, and its element in csrc/numerics and csrc/bindings.
FAMILIES = (
    Family(
        name="fake_quant_int",
        arguments="int qmin, int qmax, float denominator, int zero_kind",
        element=reference.Integers,
    ),
    Family(
        name="fake_quant_float",
        arguments="int mantissa_bits, int min_exponent, float largest",
        element=reference.Floats,
    ),
    Family(name="fake_quant_codebook", arguments="int codebook", element=reference.Codebooks),
)
#: A seed that a compiled graph is given anew does not compile it anew.
OPTIONS = "int scale_kind, int tensor_level, int group_size, int block_rows, int rounding, SymInt seed"
_OPTION_COUNT = len(OPTIONS.split(","))


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One op of every family: its tensors come first, then what all of the family take."""

    suffix: str
    tensors: str
    returns: str
    reference: Callable[..., Any]
    fake: Callable[..., Any]


def _like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _scalar_each(x: Tensor, arguments: tuple[Any, ...]) -> Tensor:
    return x.new_empty((group_count(x.shape, *arguments[-4:-2]),), dtype=torch.float32)


def _fake_scales(x: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    level = x.new_empty((1,), dtype=torch.float32)
    return _scalar_each(x, arguments), _scalar_each(x, arguments), level


def _fake_codes(x: Tensor, _scale: Tensor, _zero_point: Tensor | None, packed: bool, *_: Any) -> Tensor:
    return x.new_empty(reference.code_shape(x.shape, packed), dtype=torch.uint8)


def _fake_dequantize(
    codes: Tensor,
    _table: Tensor,
    _scale: Tensor,
    _zero_point: Tensor | None,
    columns: int,
    dtype: torch.dtype,
    *_: Any,
) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], columns) if codes.dim() else (), dtype=dtype)


def _fake_gradient(
    _grad: Tensor, x: Tensor, _scale: Tensor, zero_point: Tensor | None, *arguments: Any
) -> tuple[Tensor, Tensor, Tensor]:
    of_scale = _scalar_each(x, arguments)
    return _like(x), of_scale, of_scale.new_empty(0 if zero_point is None else of_scale.shape)


def _fake_feedback(x: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.float32), x.new_empty(x.shape)


_THREE = "(Tensor, Tensor, Tensor)"
_GIVEN = "Tensor x, Tensor scale, Tensor? zero_point"
MEMBERS = (
    Member(suffix="", tensors="Tensor x", returns="Tensor", reference=reference.fake_quant, fake=_like),
    Member(
        suffix="_rotated",
        tensors="Tensor x, int block, Tensor? signs",
        returns="Tensor",
        reference=reference.rotated,
        fake=_like,
    ),
    Member(
        suffix="_scales", tensors="Tensor x", returns=_THREE, reference=reference.scales, fake=_fake_scales
    ),
    Member(suffix="_given", tensors=_GIVEN, returns="Tensor", reference=reference.given, fake=_like),
    Member(
        suffix="_codes",
        tensors=f"{_GIVEN}, bool packed",
        returns="Tensor",
        reference=reference.codes,
        fake=_fake_codes,
    ),
    Member(
        suffix="_gradient",
        tensors=f"Tensor grad, {_GIVEN}, int gate, float trust",
        returns=_THREE,
        reference=reference.gradient,
        fake=_fake_gradient,
    ),
    Member(
        suffix="_feedback",
        tensors="Tensor x, Tensor factor, Tensor scale, Tensor? zero_point",
        returns="(Tensor, Tensor)",
        reference=reference.feedback,
        fake=_fake_feedback,
    ),
)

_LIBRARY: Any = torch.library.Library("qscale", "DEF")  # type: ignore[no-untyped-call]
_OPS: dict[tuple[str, str], Any] = {}


class StraightThrough(torch.autograd.Function):
    """Forward as asked, gradient unchanged; nothing is saved."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor, arguments: tuple[Any, ...], run: Any) -> Tensor:
        return run(x, *arguments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(_ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad, None, None


def group_count(shape: torch.Size, group_size: int, block_rows: int) -> int:
    """How many scales a tensor of this shape has."""
    axis = shape[-1] if shape else 1
    group = axis if group_size == WHOLE_AXIS else min(group_size, axis)
    count = shape.numel()
    if count == 0:
        return 0
    matrix = (shape[-2] if len(shape) > 1 else 1) if block_rows > 1 else 1
    edge = min(block_rows, matrix)
    return count // axis // matrix * -(-matrix // edge) * -(-axis // group)


def implementation(op: str, suffix: str, on_reference: bool) -> Any:
    """The op of a family that computes without a gradient, compiled where that is to be had."""
    if not on_reference and not suffix:
        suffix = "_forward"
    return _OPS[op, f"{suffix}_reference" if on_reference else suffix]


def _define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    _LIBRARY.define(f"{name}{schema}")
    _LIBRARY.impl(name, torch.no_grad()(run), "CompositeExplicitAutograd")
    torch.library.register_fake(f"qscale::{name}", fake, lib=_LIBRARY)
    return getattr(torch.ops.qscale, name).default


def _register(op: str, suffix: str, arguments: str, returns: str, run: Any, fake: Any) -> None:
    """An op without a gradient, and ``_reference``, which has no compiled kernel.

    The latter is an op because Inductor, given its parts, may drop the rounding to a 16-bit dtype at the end.
    """
    schema = f"({arguments}) -> {returns}"
    for ending in (suffix, f"{suffix}_reference".replace("_forward", "")):
        _OPS[op, ending] = _define(op + ending, schema, run, fake)
        _LIBRARY.impl(op + ending, torch.library.fallthrough_kernel, "Autograd")


def _register_main(op: str, arguments: str, run: Callable[..., Tensor]) -> None:
    """``<op>`` with a gradient, and ``_forward``, ``_reference`` and ``_out`` without.

    ``_forward``, for the inside of autograd functions, saves the 4 us a call of torch's fallback for ops that
    have no gradient.
    """
    _register(op, "_forward", f"Tensor x, {arguments}", "Tensor", run, _like)
    forward = _OPS[op, "_forward"]

    def with_gradient(x: Tensor, *numbers: Any) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            return StraightThrough.apply(x, numbers, forward)  # type: ignore[no-untyped-call,no-any-return]
        return forward(x, *numbers)  # type: ignore[no-any-return]

    def run_out(x: Tensor, *arguments: Any) -> None:
        *numbers, out = arguments
        out.copy_(run(x, *numbers))

    _define(op, f"(Tensor x, {arguments}) -> Tensor", run, _like)
    _LIBRARY.impl(op, with_gradient, "Autograd")
    _define(f"{op}_out", f"(Tensor x, {arguments}, Tensor(a!) out) -> ()", run_out, _nothing)
    _LIBRARY.impl(f"{op}_out", torch.library.fallthrough_kernel, "Autograd")


def _nothing(*_: Any) -> None:
    return None


def _from_reference(family: Family, member: Member) -> Callable[..., Any]:
    """A function of the reference with the signature of the op."""
    before = len(member.tensors.split(","))

    def run(*arguments: Any) -> Any:
        inputs, numbers = arguments[:before], arguments[before:]
        own, options = numbers[:-_OPTION_COUNT], reference.Options(*numbers[-_OPTION_COUNT:])
        element = family.element(family.name, *own, options)
        return member.reference(family.name, *inputs, element, options)

    return run


def _emulated(x: Tensor, spec: str) -> Tensor:
    """A library's own arithmetic, in plain torch."""
    from qscale.kernels import dialects  # where one is asked for

    implementation = dialects.find(QuantSpec.parse(spec))
    if implementation is None:
        raise RuntimeError(f"{EMULATED}: {spec} has no emulation")
    return implementation(x).y.contiguous()


def _aten(*arguments: Any) -> Tensor:
    from qscale.kernels.dialects import aten  # where it is asked for

    return aten.fake_quantize(*arguments)


_LIBRARY.define("cpu_isa() -> str")
_LIBRARY.define("use_cpu_isa(str name) -> ()")
for _keep in ("keep_logarithms", "keep_cuda_logarithms"):
    _LIBRARY.define(f"{_keep}(Tensor tables) -> ()")
    _LIBRARY.impl(_keep, _nothing, "CompositeExplicitAutograd")
for _family in FAMILIES:
    for _member in MEMBERS:
        _run = _from_reference(_family, _member)
        _all = f"{_family.arguments}, {OPTIONS}"
        if _member.suffix:
            _inputs = f"{_member.tensors}, {_all}"
            _register(_family.name, _member.suffix, _inputs, _member.returns, _run, _member.fake)
        else:
            _register_main(_family.name, _all, _run)
for _op in compiled.OPS:
    _register_main(_op.name, _op.arguments, _op.reference)
_register(
    "dequantize",
    "_codes",
    "Tensor codes, Tensor table, Tensor scale, Tensor? zero_point, SymInt columns, ScalarType dtype, "
    "int group_size, int block_rows",
    "Tensor",
    reference.dequantize,
    _fake_dequantize,
)
# No kernel is compiled for it, so the microsecond that a text costs does not matter.
_register_main(EMULATED, "str spec", _emulated)
compiled.keep_logarithms()
_define(
    "fake_quant_aten",
    "(Tensor x, Tensor scale, Tensor zero_point, int qmin, int qmax) -> Tensor",
    _aten,
    _like,
)
_LIBRARY.impl("fake_quant_aten", torch.library.fallthrough_kernel, "Autograd")
