"""Hadamard rotations: the registered op, its gradient, and the functions that people call."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.formats.calls import FAMILIES
from qscale.kernels import hadamard_reference
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import fake_quant, plan
from qscale.kernels.hadamard_matrices import BASES, base_matrix, decompose, nearest_sizes
from qscale.kernels.hadamard_reference import WHOLE_AXIS
from qscale.kernels.ops import implementation

# As in ops.py: `hadamard` has a gradient, `_forward` is the same without, `_reference` has no compiled
# kernel.
_ARGUMENTS = "(Tensor x, int block, Tensor? signs, bool transpose)"
_SCHEMAS = (
    f"hadamard{_ARGUMENTS} -> Tensor",
    f"hadamard_forward{_ARGUMENTS} -> Tensor",
    f"hadamard_reference{_ARGUMENTS} -> Tensor",
    f"hadamard_out{_ARGUMENTS[:-1]}, Tensor(a!) out) -> ()",
    "keep_hadamard_matrix(Tensor matrix) -> ()",
    "keep_cuda_hadamard_matrix(Tensor matrix) -> ()",
)
_LIBRARY: Any = torch.library.Library("qscale", "FRAGMENT")  # type: ignore[no-untyped-call]
for _schema in _SCHEMAS:
    _LIBRARY.define(_schema)

_forward = torch.ops.qscale.hadamard_forward.default
_forward_reference = torch.ops.qscale.hadamard_reference.default


class _Rotation(torch.autograd.Function):
    """``H D`` forward, ``D H^T`` backward: H need not be symmetric. Of tensors, only the signs are saved."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: int, signs: Tensor | None, transpose: bool, run: Any) -> Tensor:
        ctx.save_for_backward(signs)
        ctx.arguments = (block, transpose, run)
        return run(x, block, signs, transpose)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None, None]:
        (signs,) = ctx.saved_tensors
        block, transpose, run = ctx.arguments
        return _rotate(grad, block, signs, not transpose, run), None, None, None, None


def _rotate(x: Tensor, block: int, signs: Tensor | None, transpose: bool, run: Any = _forward) -> Tensor:
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rotation.apply(x, block, signs, transpose, run)  # type: ignore[no-untyped-call,no-any-return]
    return run(x, block, signs, transpose)  # type: ignore[no-any-return]


def _with_gradient(x: Tensor, block: int, signs: Tensor | None, transpose: bool) -> Tensor:
    return _rotate(x, block, signs, transpose)


def _fake(x: Tensor, block: int, *_: Any, **__: Any) -> Tensor:
    axis = x.shape[-1] if x.dim() else 1
    if isinstance(axis, int):  # a symbolic size is checked when the kernel runs
        _check_size(axis, block)
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.no_grad()  # a kernel: what it does inside is no part of the graph
def _reference(x: Tensor, block: int, signs: Tensor | None, transpose: bool) -> Tensor:
    return hadamard_reference.hadamard(x, block, signs, transpose)


@torch.no_grad()
def _reference_out(x: Tensor, block: int, signs: Tensor | None, transpose: bool, out: Tensor) -> None:
    out.copy_(hadamard_reference.hadamard(x, block, signs, transpose))


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _register() -> None:
    for name in ("hadamard", "hadamard_forward", "hadamard_reference"):
        _LIBRARY.impl(name, _reference, "CompositeExplicitAutograd")
        torch.library.register_fake(f"qscale::{name}", _fake, lib=_LIBRARY)
    _LIBRARY.impl("hadamard_out", _reference_out, "CompositeExplicitAutograd")
    torch.library.register_fake("qscale::hadamard_out", _nothing, lib=_LIBRARY)
    _LIBRARY.impl("hadamard", _with_gradient, "Autograd")
    for name in ("hadamard_forward", "hadamard_reference", "hadamard_out"):
        _LIBRARY.impl(name, torch.library.fallthrough_kernel, "Autograd")
    for name in ("keep_hadamard_matrix", "keep_cuda_hadamard_matrix"):
        _LIBRARY.impl(name, _nothing, "CompositeExplicitAutograd")


def keep_base_matrices() -> None:
    """Give compiled kernels the matrices that Python makes; the reference needs none."""
    for order in BASES[1:]:
        matrix = torch.tensor(base_matrix(order), dtype=torch.float32)
        torch.ops.qscale.keep_hadamard_matrix(matrix)
        torch.ops.qscale.keep_cuda_hadamard_matrix(matrix)


_register()
keep_base_matrices()


@lru_cache(maxsize=1024)
def _check_size(axis: int, block: int) -> None:
    size = axis if block == WHOLE_AXIS else block
    if size < 1:
        if size == 0 and block == WHOLE_AXIS:
            return  # nothing to rotate
        raise SpecError(f"hadamard: block={block}; wanted at least 1, or None for the whole last axis")
    if decompose(size) is None:
        nearest = " and ".join(map(str, nearest_sizes(size)))
        raise SpecError(
            f"hadamard: no transform of size {size}; the nearest sizes are {nearest}. Supported are powers "
            f"of two and multiples of 4 with an odd part of at most {BASES[-1] // 4}; an axis of another "
            f"size can be rotated in blocks."
        )
    if axis % size:
        raise SpecError(f"hadamard: blocks of {size} do not divide the last axis of {axis} elements")


def _checked_signs(signs: Tensor, axis: int, block: int, x: Tensor) -> Tensor:
    size = axis if block == WHOLE_AXIS else block
    if signs.dim() != 1 or signs.shape[0] not in (size, axis):
        lengths = f"{size}" if size == axis else f"{size} (the block) or {axis} (the axis)"
        raise SpecError(f"hadamard: signs has shape {list(signs.shape)}; wanted one dimension of {lengths}")
    if signs.requires_grad:
        raise SpecError("hadamard: signs has no gradient; pass signs.detach()")
    return signs.to(device=x.device, dtype=torch.float32)


def hadamard(
    x: Tensor, block: int | None = None, signs: Tensor | None = None, *, transpose: bool = False
) -> Tensor:
    """Rotate ``x`` by an orthonormal Hadamard matrix along its last axis, whole or block by block.

    ``y = H (signs * x) / sqrt(n)`` for each block of n elements, with ``H = H_m (x) S``: S is Sylvester's
    matrix of order n/m in natural order, H_m a matrix of order m (m = 1 for a power of two) that
    ``hadamard_matrices`` constructs. A block seen as ``(m, n/m)``, row-major, takes S along its rows and H_m
    across them. With ``transpose`` it is the inverse, ``y = signs * (H^T x) / sqrt(n)``; H need not be
    symmetric.

    Arithmetic is float32, in an order that fixes every bit: signs; sums and differences of elements h apart,
    for h = 1, 2, 4, ...; the m columns of H_m added one after another; one product with
    ``float32(1 / sqrt(n))``; one rounding to ``x.dtype``. A NaN makes its whole block NaN; an infinity makes
    it infinities and NaN, and so may sums that leave float32 or, at the end, float16.

    Args:
        x: ``(..., K)``, float32, bfloat16 or float16, any shape and strides. Not modified. A tensor of no
            dimensions has one element on its last axis.
        block: n, a divisor of K; None for K itself. Supported are powers of two and ``m * 2**k`` with m in
            12, 20, 28, ... 172: multiples of 4 with an odd part of at most 43, such as 3584 and 11008.
        signs: n or K values 1 and -1, any dtype; n of them serve every block. Not differentiable.
        transpose: Apply the transpose, which undoes the rotation up to rounding.

    Returns:
        Shape, dtype and device of ``x``, contiguous. The gradient with respect to ``x`` is the true transpose
        of what was applied; nothing of the size of ``x`` is saved for it.

    Raises:
        SpecError: There is no transform of this size (the message names the nearest), blocks do not divide
            the last axis, or ``signs`` has another length or asks for a gradient.
        BackendError: The dtype is another, or the backend that ``use_backend`` names cannot serve ``x``.
        RuntimeError: ``signs`` holds a value other than 1 and -1.

    Example:
        >>> hadamard(torch.tensor([4.0, 0.0, 0.0, 0.0]))
        tensor([2., 2., 2., 2.])

    Source: Paley 1933; Williamson 1944; rotations before quantization, Ashkboos et al. 2024 (QuaRot,
    arXiv:2404.00456).
    """
    run = _forward_reference if on_reference("hadamard", x) else _forward
    size, signs = _checked(x, block, signs)
    return _rotate(x, size, signs, transpose, run)


def _checked(x: Tensor, block: int | None, signs: Tensor | None) -> tuple[int, Tensor | None]:
    """Block and signs as the ops take them."""
    size = WHOLE_AXIS if block is None else block
    if size == WHOLE_AXIS and block is not None:
        raise SpecError("hadamard: block=-1; wanted at least 1, or None for the whole last axis")
    axis = x.shape[-1] if x.dim() else 1
    if not torch.compiler.is_compiling():  # the op's shape function checks there
        _check_size(axis, size)
    return size, None if signs is None else _checked_signs(signs, axis, size, x)


def rotate_fake_quant(
    x: Tensor,
    spec: QuantSpec | str,
    block: int | None = None,
    signs: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """``fake_quant(hadamard(x, block, signs), spec)``: the values as they are stored, in the rotated basis.

    Exactly that composition, bit for bit: the rotation is rounded to ``x.dtype`` before it is quantized. The
    result stays rotated; what multiplies it must be rotated likewise, or ``hadamard(..., transpose=True)`` be
    applied. Gradient: that of :func:`fake_quant`, then the transpose of the rotation.

    Without options a tile is rotated and quantized while it is in cache; formats with a scale of the tensor,
    square blocks and the dialects of libraries are the two ops in turn.

    Args:
        x: ``(..., K)``, float32, bfloat16 or float16, any shape and strides.
        spec: As for :func:`fake_quant`.
        block: As for :func:`hadamard`; independent of the group size of ``spec``.
        signs: As for :func:`hadamard`.
        options: As for :func:`fake_quant`: ``scale``, ``gradient``, ``seed`` and the rest.

    Returns:
        Shape, dtype and device of ``x``, contiguous.

    Raises:
        SpecError: As :func:`fake_quant` and :func:`hadamard`.
        BackendError: As :func:`fake_quant` and :func:`hadamard`.

    Example:
        >>> rotate_fake_quant(torch.tensor([4.0, 0.1, 0.0, 0.0]), "int4:g4")
        tensor([2.0500, 2.0500, 2.0500, 2.0500])
    """
    op, arguments, whole_tensor, _ = plan(spec)
    if options or whole_tensor or op not in FAMILIES:
        return fake_quant(hadamard(x, block, signs), spec, **options)
    reference = on_reference("rotate_fake_quant", x)
    size, signs = _checked(x, block, signs)
    if torch.is_grad_enabled() and x.requires_grad:
        return _RotatedFakeQuant.apply(x, size, signs, op, arguments, reference)  # type: ignore[no-untyped-call,no-any-return]
    return implementation(op, "_rotated", reference)(x, size, signs, *arguments)  # type: ignore[no-any-return]


class _RotatedFakeQuant(torch.autograd.Function):
    """Straight through the rounding, then the transpose of the rotation; only the signs are saved."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        block: int,
        signs: Tensor | None,
        op: str,
        arguments: tuple[Any, ...],
        reference: bool,
    ) -> Tensor:
        ctx.save_for_backward(signs)
        ctx.arguments = (block, reference)
        return implementation(op, "_rotated", reference)(x, block, signs, *arguments)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (signs,) = ctx.saved_tensors
        block, reference = ctx.arguments
        run = _forward_reference if reference else _forward
        return _rotate(grad, block, signs, True, run), None, None, None, None, None
