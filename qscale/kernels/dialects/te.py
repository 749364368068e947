"""TransformerEngine, commit d0067d0 (2026-08-22): NVFP4 as its pure-torch reference class quantizes it."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qscale.kernels.dialects import _shared
from qscale.kernels.dialects._shared import Quantized
from qscale.kernels.dialects.elements import E2M1, E4M3, decode, encode, round_to

Tile = tuple[int, int]
Error = Literal["MAE", "MSE"]

_SIXTH = float(1 / torch.tensor(6.0))  # the reciprocal as float32 has it
_FLOAT_MAX = torch.finfo(torch.float32).max


def nvfp4(x: Tensor, tile: Tile = (1, 16), *, row_scaled: bool = False) -> Quantized:
    """``S = 448 * 6 / max|x|``, ``sf = e4m3(min(a * (S * (1/6)), 448))``, ``q = RNE(clamp(x * enc, -6, 6))``.

    ``enc = min(1 / (sf * (1/S)), FLT_MAX)``; ``a`` over a tile of rows and columns, whose scale stands in
    every row of the tile, filled rows included. ``S`` is 1 where ``max|x|`` or ``S`` is 0; ``row_scaled``
    takes it of each row. A group of zeros has ``sf = 0`` and codes 0; a NaN anywhere makes every code 0.

    The class has no dequantizer; ``y = q * (sf * (1/S))`` is ours. ``tensor_scale`` is ``max|x|``.
    """
    rows = x.reshape(-1, x.shape[-1])
    amax = _absmax(rows, row_scaled)
    global_scale = _global_scale(amax, E4M3.largest)
    scale = _block_scale(_tile_absmax(rows, tile) * (global_scale * _SIXTH))
    codes, y = _quantize(rows, scale, global_scale, tile)
    return _result(x, codes, y, scale.repeat_interleave(tile[0], 0), amax)


def nvfp4_4over6(x: Tensor, tile: Tile = (1, 16), *, error: Error = "MAE", e4m3_max: int = 256) -> Quantized:
    """NVFP4 whose blocks put their largest value on 6 or on 4, whichever errs less; 6 where both err alike.

    ``S = e4m3_max * 6 / max|x|``; the scale for 4 is 1.5 times that for 6, before both are rounded to E4M3.
    The error is the sum over the tile of ``|y - x|`` (MAE) or its square (MSE).
    Source: arXiv:2512.02010. The vectors leave open in what order the library takes the products.
    """
    rows = x.reshape(-1, x.shape[-1])
    amax = _absmax(rows, row_scaled=False)
    global_scale = _global_scale(amax, e4m3_max)
    to_six = _tile_absmax(rows, tile) * (global_scale * _SIXTH)
    six, four = _block_scale(to_six), _block_scale(to_six * 1.5)
    better = _error(rows, four, global_scale, tile, error) < _error(rows, six, global_scale, tile, error)
    scale = torch.where(better, four, six)
    codes, y = _quantize(rows, scale, global_scale, tile)
    return _result(x, codes, y, scale.repeat_interleave(tile[0], 0), amax)


def _error(x: Tensor, scale: Tensor, global_scale: Tensor, tile: Tile, error: Error) -> Tensor:
    difference = _quantize(x.float(), scale, global_scale, tile)[1] - x.float()
    return _tiles(difference.abs() if error == "MAE" else difference.square(), tile).sum((1, 3))


def _result(x: Tensor, codes: Tensor, y: Tensor, scale: Tensor, amax: Tensor) -> Quantized:
    return Quantized(
        y=y.reshape(x.shape),
        codes=codes.reshape(x.shape),
        scale=encode(scale, E4M3).view(torch.float8_e4m3fn),
        tensor_scale=amax.reshape(-1),
    )


def _absmax(x: Tensor, row_scaled: bool) -> Tensor:
    """``max|x|`` in float32, as a column: of each row, or of all."""
    magnitude = x.float().abs()
    return magnitude.amax(-1, keepdim=True) if row_scaled else magnitude.amax().reshape(1, 1)


def _global_scale(amax: Tensor, e4m3_largest: float) -> Tensor:
    scale = _shared.number(e4m3_largest * E2M1.largest, amax) / amax
    scale = scale.clamp(max=_FLOAT_MAX)
    return torch.where((amax == 0) | (scale == 0), 1.0, scale)


def _tiles(x: Tensor, tile: Tile) -> Tensor:
    """``(tile rows, rows, tile columns, columns)``; zeros fill a short last tile."""
    rows, columns = tile
    padded = torch.nn.functional.pad(x, (0, -x.shape[1] % columns, 0, -x.shape[0] % rows))
    return padded.reshape(padded.shape[0] // rows, rows, padded.shape[1] // columns, columns)


def _tile_absmax(x: Tensor, tile: Tile) -> Tensor:
    return _tiles(x.float().abs(), tile).amax((1, 3))


def _block_scale(scale: Tensor) -> Tensor:
    return round_to(scale.clamp(max=E4M3.largest), E4M3)


def _spread(scale: Tensor, tile: Tile) -> Tensor:
    """The scale of every element."""
    return scale.repeat_interleave(tile[0], 0).repeat_interleave(tile[1], 1)


def _quantize(x: Tensor, scale: Tensor, global_scale: Tensor, tile: Tile) -> tuple[Tensor, Tensor]:
    decoded = _spread(scale, tile)[: x.shape[0], : x.shape[1]] * global_scale.reciprocal()
    scaled = x.float() * decoded.reciprocal().clamp(max=_FLOAT_MAX)
    codes = cast_e2m1(scaled.clamp(-E2M1.largest, E2M1.largest))
    return codes, (decode(codes, E2M1) * decoded).to(x.dtype)


def cast_e2m1(x: Tensor) -> Tensor:
    """E2M1 codes, half to even, saturating; -0 becomes +0, small negatives keep the sign, NaN becomes 0."""
    values = round_to(x, E2M1).clamp(-E2M1.largest, E2M1.largest)
    return encode(torch.where((x == 0) | x.isnan(), 0.0, values), E2M1)
