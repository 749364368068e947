"""Bytes of quantized weights, exactly: elements, scales, zero points and what stays in full precision."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from qscale.errors import ConfigError
from qscale.formats import QuantSpec

_SCALE_BITS = {"e8m0": 8, "e4m3": 8}
_OTHER_SCALE_BITS = 16  # float16 or bfloat16, where the format leaves it open
_FLOAT_ZERO_BITS = 16
_TENSOR_SCALE_BITS = 32  # the second scale beside E4M3 scales, one float32 a tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Bytes:
    """The parts of a model's weights in bytes, each rounded up to whole bytes a tensor."""

    elements: int
    scales: int
    zero_points: int
    full_precision: int  #: embeddings, head, norms

    @property
    def total(self) -> int:
        """The sum of the parts."""
        return self.elements + self.scales + self.zero_points + self.full_precision

    def __add__(self, other: Bytes) -> Bytes:
        return Bytes(
            elements=self.elements + other.elements,
            scales=self.scales + other.scales,
            zero_points=self.zero_points + other.zero_points,
            full_precision=self.full_precision + other.full_precision,
        )

    def __rmul__(self, count: int) -> Bytes:
        return Bytes(
            elements=count * self.elements,
            scales=count * self.scales,
            zero_points=count * self.zero_points,
            full_precision=count * self.full_precision,
        )


def bits_per_weight(
    spec: QuantSpec | str,
    *,
    scale_bits: int | None = None,
    zero_bits: int | None = None,
    in_features: int | None = None,
) -> float:
    """Bits that one weight takes, its share of the scales included.

    ``num_bits + (scale_bits + zero_bits) * groups / in_features`` with ``groups = ceil(in_features / G)``;
    without ``in_features`` no last group is ragged and it is ``num_bits + (scale_bits + zero_bits) / G``. A
    square of ``G`` rows shares them among ``G`` times as many. One scale for a whole tensor (``tensor``, and
    the second one beside E4M3 scales) has no share that is independent of the tensor's size, nor have squares
    that are cut off at the last rows: :func:`weight_bytes` counts them.

    Args:
        spec: Such as ``"int4:g128"``.
        scale_bits: Of one scale; default 8 for E8M0 and E4M3 scales (MX, NVFP4, ``scale_e8m0``,
            ``scale_e4m3``), else 16.
        zero_bits: Of one zero point; default the element's bits for ``asym``, 16 with ``floatzero``, else 0.
        in_features: Length of the reduction axis; needed for ``channel``.

    Raises:
        SpecError: The spec cannot be read.
        ConfigError: ``channel`` without ``in_features``, or a size that is not positive.

    Example:
        >>> bits_per_weight("int4:g128"), bits_per_weight("int4:g128:asym"), bits_per_weight("mxfp4")
        (4.125, 4.15625, 4.25)
        >>> bits_per_weight("int4:b128")  # one scale for 128 * 128 weights
        4.0009765625

    Source: OCP Microscaling Formats 1.0, section 5 (MX); checks in ``tests/planning/test_memory.py``.
    """
    spec = QuantSpec.parse(spec)
    overhead = sum(_group_bits(spec, scale_bits, zero_bits))
    if spec.strategy == "tensor":
        return float(spec.num_bits)
    rows = spec.group_size if spec.strategy == "block" and spec.group_size else 1
    if in_features is None:
        if spec.group_size is None:
            raise ConfigError(f"{spec}: bits per weight depend on in_features; give it")
        return spec.num_bits + overhead / (spec.group_size * rows)
    return spec.num_bits + overhead * _groups(spec, in_features) / (in_features * rows)


def weight_bytes(
    spec: QuantSpec | str | None,
    shape: tuple[int, int],
    *,
    scale_bits: int | None = None,
    zero_bits: int | None = None,
    full_bits: int = 16,
) -> Bytes:
    """Bytes of one weight matrix, exactly.

    Args:
        spec: Of the weight; None: not quantized, ``full_bits`` a weight.
        shape: ``(out_features, in_features)``; groups run along in_features, the last one may be short, and
            squares are cut off at the last rows too.
        scale_bits: As in :func:`bits_per_weight`.
        zero_bits: As in :func:`bits_per_weight`.
        full_bits: Bits of a weight that is not quantized.

    Raises:
        SpecError: The spec cannot be read.
        ConfigError: A size is not positive.

    Example:
        >>> weight_bytes("int4:g32", (64, 48)).total  # 64 * 48 / 2 bytes and 64 * 2 scales of 2 bytes
        1792
        >>> weight_bytes("int4:b32", (64, 48)).scales  # 2 * 2 squares
        8
    """
    out_features, in_features = shape
    if out_features < 1 or in_features < 1 or full_bits < 1:
        raise ConfigError(f"a weight of shape {shape} with {full_bits} bits: sizes are positive")
    count = out_features * in_features
    if spec is None:
        return Bytes(elements=0, scales=0, zero_points=0, full_precision=_up(count * full_bits))
    spec = QuantSpec.parse(spec)
    scale, zero = _group_bits(spec, scale_bits, zero_bits)
    groups = 1 if spec.strategy == "tensor" else _bands(spec, out_features) * _groups(spec, in_features)
    second = _TENSOR_SCALE_BITS if spec.has_tensor_scale else 0
    return Bytes(
        elements=_up(count * spec.num_bits),
        scales=_up(groups * scale + second),
        zero_points=_up(groups * zero),
        full_precision=0,
    )


def model_bytes(
    spec: QuantSpec | str | None,
    shapes: Iterable[tuple[int, int]],
    *,
    full_precision: int = 0,
    scale_bits: int | None = None,
    zero_bits: int | None = None,
    full_bits: int = 16,
) -> Bytes:
    """Bytes of a model: the quantized matrices, and the weights that stay as they are.

    Args:
        spec: Of every matrix in ``shapes``.
        shapes: ``(out_features, in_features)`` of each quantized matrix.
        full_precision: Number of the other weights (embeddings, head, norms), ``full_bits`` each.
        scale_bits: As in :func:`bits_per_weight`.
        zero_bits: As in :func:`bits_per_weight`.
        full_bits: Bits of a weight that is not quantized.

    Example:
        >>> model_bytes("int4:g128", [(4096, 4096)] * 2, full_precision=1000)
        Bytes(elements=16777216, scales=524288, zero_points=0, full_precision=2000)
    """
    if full_precision < 0:
        raise ConfigError(f"full_precision={full_precision}: a number of weights is not negative")
    total = Bytes(elements=0, scales=0, zero_points=0, full_precision=_up(full_precision * full_bits))
    for shape in shapes:
        total += weight_bytes(spec, shape, scale_bits=scale_bits, zero_bits=zero_bits, full_bits=full_bits)
    return total


def _group_bits(spec: QuantSpec, scale_bits: int | None, zero_bits: int | None) -> tuple[int, int]:
    """Bits of the scale and of the zero point of one group."""
    if scale_bits is None:
        scale_type = spec.scale_dtype if spec.row.scale_type == "free" else spec.row.scale_type
        scale_bits = _SCALE_BITS.get(scale_type or "", _OTHER_SCALE_BITS)
    if zero_bits is None:
        of_asym = _FLOAT_ZERO_BITS if spec.zero_point == "float" else spec.num_bits
        zero_bits = 0 if spec.symmetric else of_asym
    if scale_bits < 0 or zero_bits < 0:
        raise ConfigError(f"scale_bits={scale_bits}, zero_bits={zero_bits}: bits are not negative")
    return scale_bits, zero_bits


def _groups(spec: QuantSpec, in_features: int) -> int:
    if in_features < 1:
        raise ConfigError(f"in_features={in_features}: sizes are positive")
    return -(-in_features // spec.group_length(in_features))


def _bands(spec: QuantSpec, out_features: int) -> int:
    """Rows of scales: one for each row of weights, or for the rows of a square."""
    edge = spec.group_size if spec.strategy == "block" and spec.group_size else 1
    return -(-out_features // edge)


def _up(bits: int) -> int:
    """Whole bytes that hold this many bits."""
    return -(-bits // 8)
