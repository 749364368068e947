"""bitsandbytes 0.50.2, the CPU backend: 4-bit codebooks over flat blocks of the whole tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from qscale.kernels.dialects._shared import Quantized

#: The values of the codes 0 to 15.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
_FP4_MAGNITUDES = tuple(value / 12 for value in (0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0))
#: Not E2M1: the sign is the top bit, the magnitudes do not grow with the code, no -0.
FP4 = _FP4_MAGNITUDES + tuple(0.0 - value for value in _FP4_MAGNITUDES)

_SMALLEST_ABSMAX = 1e-38


def quantize_4bit(x: Tensor, table: tuple[float, ...], block: int) -> Quantized:
    """``v = clamp(x * (1 / max(a, 1e-38)), -1, 1)``, the code of the nearest value, ``y = table[code] * a``.

    Everything in float32, ``y`` then in the dtype of ``x``. The borders are the midpoints of neighbouring
    values, rounded to float32; a value on one goes to the lower neighbour. A last block that is short is
    divided by ``a``. A block of zeros has the scale 0 and gives zeros. Codes of NaN mean nothing.
    """
    flat = x.reshape(-1).float()
    count = flat.numel()
    blocks = torch.nn.functional.pad(flat, (0, -count % block)).reshape(-1, block)
    absmax = blocks.abs().amax(-1)
    floor = absmax.clamp(min=_SMALLEST_ABSMAX).unsqueeze(-1)
    scaled = blocks * floor.reciprocal()
    if count % block:
        scaled[-1] = blocks[-1] / floor[-1]
    codes = _nearest(scaled.clamp(-1.0, 1.0), table)
    values = torch.tensor(table, dtype=torch.float32, device=x.device)[codes]
    y = (values * absmax.unsqueeze(-1)).reshape(-1)[:count]
    return Quantized(
        y=y.to(x.dtype).reshape(x.shape),
        codes=codes.reshape(-1)[:count].to(torch.uint8).reshape(x.shape),
        scale=absmax,
    )


def _nearest(scaled: Tensor, table: tuple[float, ...]) -> Tensor:
    order = sorted(range(len(table)), key=table.__getitem__)
    values = torch.tensor([table[code] for code in order], dtype=torch.float32, device=scaled.device)
    borders = ((values[1:].double() + values[:-1].double()) / 2).float()
    return torch.tensor(order, device=scaled.device)[torch.bucketize(scaled, borders)]
