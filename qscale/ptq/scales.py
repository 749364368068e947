"""Scales of the groups of a weight, found once and held while its columns are rounded one by one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from qscale.errors import SpecError
from qscale.formats import QuantSpec
from qscale.formats.calls import FAMILIES
from qscale.formats.spec import ScaleDtype
from qscale.kernels import fake_quant
from qscale.kernels.backends import on_reference
from qscale.kernels.fake_quantize import plan, round_with_feedback, scale_shape
from qscale.kernels.ops import implementation
from qscale.quantizers import Absmax, Clip
from qscale.quantizers.absmax import StochasticAbsmax

#: The search of GPTQ's own quantizer: parts of the range, and the norm of the error.
_SHRINKS, _SHRINK_NORM = 80, 2.4
#: What ``scale_input`` comes to.
_DTYPES: dict[torch.dtype, ScaleDtype] = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


@dataclass(frozen=True, slots=True)
class Found:
    """The scale of one group, one a row, ``(rows, 1)``, float32."""

    scale: Tensor
    zero: Tensor | None


class GroupScales:
    """The scales that a spec gives the groups of a weight, and rounding with them.

    A whole weight rounded with the scales of its groups has the bits of ``fake_quant(weight, spec)``. A
    second scale, of the whole tensor, is that of the weight as it was given; so is the scale of ``tensor``.

    Args:
        weight: ``(rows, width)``.
        spec: In a dialect whose scales can be given. Stochastic rounding becomes rounding to nearest, as in
            evaluation.
        ratio: A factor of every scale.
        search: Shrink each range to the part, of 1, 0.99, ..., 0.21, whose error has the least norm 2.4.

    Raises:
        SpecError: Scales of the dialect cannot be held, or a search goes with scales that cannot be shrunk.
    """

    def __init__(self, weight: Tensor, spec: QuantSpec, *, ratio: float = 1.0, search: bool = False) -> None:
        if spec.rounding == "stochastic":
            spec = replace(spec, rounding="even")
        if spec.scale_dtype == "input":
            spec = replace(spec, scale_dtype=_DTYPES.get(weight.dtype))
        if plan(spec)[0] not in FAMILIES:
            raise SpecError(
                f"{spec}: dialect {spec.dialect!r} finds scales and rounds in one; a method that rounds "
                "column by column needs dialect qscale or chen2025, or use rtn"
            )
        self.is_free = spec.row.scale_type == "free" and spec.scale_dtype is None
        if (search or ratio != 1.0) and not (self.is_free and spec.strategy in ("group", "channel")):
            raise SpecError(f"{spec}: its scales cannot be shrunk; float32 scales per group or channel can")
        self.spec, self.ratio, self.search = spec, ratio, search
        self.width = weight.shape[1]
        self.length = self.width if spec.strategy == "tensor" else max(1, spec.group_length(self.width))
        weight = weight.float()
        self._largest = float(weight.abs().amax()) if spec.has_tensor_scale and weight.numel() else 0.0
        self._column = _for_columns(spec)
        self._whole = self._find(weight) if spec.strategy == "tensor" else None

    def find(self, columns: Tensor) -> Found:
        """The scale of one group from its columns, ``(rows, up to length)``."""
        if self._whole is not None:
            return self._whole
        found = self._find(columns.float())
        return self._shrunk(columns.float(), found) if self.search else found

    def round(self, columns: Tensor, found: Found) -> Tensor:
        """Columns of one group to the nearest values under its scale, float32."""
        return fake_quant(columns.float(), self._column, scale=found.scale, zero_point=found.zero)

    def round_with_feedback(
        self, columns: Tensor, factor: Tensor, found: list[Found]
    ) -> tuple[Tensor, Tensor]:
        """Columns, the rows of ``columns``, each under a scale of ``found``, errors fed into those after it.

        Returns:
            As :func:`qscale.kernels.fake_quantize.round_with_feedback`.
        """
        scale = torch.cat([one.scale.t() for one in found])
        zeros = [one.zero.t() for one in found if one.zero is not None]
        zero = torch.cat(zeros) if zeros else None
        return round_with_feedback(columns, factor, self._column, scale=scale, zero_point=zero)

    def round_all(self, weight: Tensor) -> Tensor:
        """A whole weight under scales of its own groups: rounding to nearest."""
        if not self.search and self.ratio == 1.0 and not self.spec.has_tensor_scale:
            return fake_quant(weight.float(), self.spec)
        parts = torch.split(weight.float(), self.length, dim=1)
        return torch.cat([self.round(part, self.find(part)) for part in parts], dim=1)

    def whole(self, weight: Tensor) -> tuple[QuantSpec, Tensor, Tensor | None]:
        """The scales of all groups of a weight, as ``fake_quant`` takes them with the spec returned."""
        spec = replace(self.spec, tensor_scale=False) if self.spec.has_tensor_scale else self.spec
        op, arguments, whole_tensor, _ = plan(self.spec)
        flat = weight.float().reshape(-1) if whole_tensor else weight.float().contiguous()
        own, zero, level = implementation(op, "_scales", on_reference("fake_quant", flat))(flat, *arguments)
        shape = scale_shape(flat.shape, *arguments[-4:-2])
        scale = (own * level * self.ratio).reshape(shape)
        return spec, scale, None if self.spec.symmetric else zero.reshape(shape)

    def _find(self, columns: Tensor) -> Found:
        rows = len(columns)
        edge = self.spec.group_size if self.spec.strategy == "block" and self.spec.group_size else 1
        if self.spec.has_tensor_scale and self.spec.strategy != "tensor":
            # Beside the group, and clamped to it: the largest of the whole weight, so that the scale of the
            # tensor is its own. What grew beyond would saturate anyway.
            columns = columns.clamp(-self._largest, self._largest)
            columns = nn.functional.pad(columns, (0, 0, 0, -rows % edge + edge))
            columns[-1, 0] = self._largest
        op, arguments, whole_tensor, _ = plan(self.spec)
        flat = columns.reshape(-1) if whole_tensor else columns.contiguous()
        run = implementation(op, "_scales", on_reference("fake_quant", flat))
        own, zero, level = run(flat, *arguments)
        shape = scale_shape(flat.shape, *arguments[-4:-2])
        scale = _a_row(own * level * self.ratio, shape, edge, rows)
        return Found(scale, None if self.spec.symmetric else _a_row(zero, shape, edge, rows))

    def _shrunk(self, columns: Tensor, found: Found) -> Found:
        best = torch.full_like(found.scale, torch.inf)
        scale = found.scale.clone()
        for step in range(_SHRINKS):
            tried = Found(found.scale * (1 - step / 100), found.zero)
            error = (self.round(columns, tried) - columns).abs().pow(_SHRINK_NORM).sum(1, keepdim=True)
            better = error < best
            best, scale = torch.where(better, error, best), torch.where(better, tried.scale, scale)
        return Found(scale, found.zero)


def scales_for(quantizer: nn.Module, weight: Tensor, method: str, *, search: bool = False) -> GroupScales:
    """The scales that a layer's own quantizer would give its weight.

    Raises:
        SpecError: The quantizer has other scales than absmax or a fixed part of it.
    """
    if isinstance(quantizer, (Absmax, StochasticAbsmax)):
        return GroupScales(weight, quantizer.spec, search=search)
    if isinstance(quantizer, Clip):
        return GroupScales(weight, quantizer.spec, ratio=quantizer.ratio, search=search)
    raise SpecError(
        f"{method} rounds weights under scales of absmax or clip(ratio), not of "
        f"{type(quantizer).__name__.lower()}; use rtn, or another quantizer"
    )


def _for_columns(spec: QuantSpec) -> QuantSpec:
    """The spec of columns that come with the whole of their scale, one a row."""
    if spec.has_tensor_scale:
        spec = replace(spec, tensor_scale=False)
    if spec.row.block is not None:
        return replace(spec, strategy="group", group_size=spec.row.block)
    return replace(spec, strategy="channel", group_size=None)


def _a_row(flat: Tensor, shape: tuple[int, ...], edge: int, rows: int) -> Tensor:
    """``(rows, 1)`` of one scale a row, a band of rows, or in all."""
    if len(shape) == 1:
        return flat.reshape(1, 1).expand(rows, 1)
    return flat.reshape(shape).repeat_interleave(edge, 0)[:rows].contiguous()
