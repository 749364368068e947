"""The layout of the library compressed-tensors: codes and scales in place of weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from qscale.errors import ConfigError
from qscale.formats import QuantSpec
from qscale.ptq.layouts.block_floats import BLOCK_FLOATS, block_float_tensors
from qscale.ptq.layouts.layout import Layout

#: Widths whose codes fill a word of 32 bits evenly: every version of the library packs them alike.
_PACKED = (2, 4, 8)
_STEPS = (0, 1, -1, 2, -2)  #: of a scale's last bit
_E4M3 = 448.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Codes:
    """A weight as codes under scales; ``(codes - zero) * scale`` in the weight's dtype is the weight."""

    codes: Tensor  #: ``(rows, width)``, int8, or float8 of FP8
    scale: Tensor  #: ``(rows, groups)``, in the weight's dtype
    zero: Tensor | None  #: ``(rows, groups)``, int8


class CompressedTensors(Layout):
    """Packed integers of 2, 4 or 8 bits in groups or channels, FP8 in channels; NVFP4, MXFP4, MXFP8.

    The scales are found from the rounded weights, whatever method rounded them, so that the library's
    ``(q - z) * s`` gives back every bit; a layer for which there are none stays as weights. Scales of the
    library are in the dtype of the weights: a bfloat16 model wants ``scale_bf16`` in its spec. NVFP4, MXFP4
    and MXFP8 have scales of a byte and become bfloat16 weights in the library: for bfloat16 models alone.
    Names and fields: compressed-tensors 0.20. Packed zero points (``asym``) are as its packer writes them;
    that version under transformers 5.23 loads them with ``CompressedTensorsConfig(dequantize=True)`` alone,
    as it makes room for unpacked ones otherwise.

    Args:
        notes: Of :func:`qscale.ptq.stored.block_state`.
        weights: The tensors of a block by its number.
        asymmetric: Whether to pack layers with zero points.

    Raises:
        ConfigError: Inputs, keys or values are quantized, or no layer can be held.
    """

    name: ClassVar[str] = "compressed-tensors"

    def __init__(
        self,
        notes: Sequence[Mapping[str, Any]],
        weights: Callable[[int], dict[str, Tensor]],
        *,
        asymmetric: bool = True,
    ) -> None:
        for note in notes:
            changed = [name for group in note["inputs"] for name in group["layers"]] + [*note["attentions"]]
            if changed:
                raise ConfigError(
                    f"layout compressed-tensors holds weights alone, and the input of {changed[0]} is "
                    "quantized, divided or rotated: use layout qscale, or plain"
                )
        self._specs: dict[str, QuantSpec] = {}
        refused = ""
        for number, note in enumerate(notes):
            tensors = weights(number) if any(note["quantized"].values()) else {}
            for layer, text in note["quantized"].items():
                spec = QuantSpec.parse(text) if text is not None else None
                served = spec is not None and (spec.symmetric or asymmetric)
                if spec is not None and served and _tensors(tensors[f"{layer}.weight"], spec) is not None:
                    self._specs[layer] = spec
                else:
                    refused = refused or f"{layer} ({text})"
        if not self._specs:
            raise ConfigError(
                f"layout compressed-tensors: no codes and scales of it give back the bits of {refused}; "
                "it has int2, int4 and int8 in whole groups or channels and fp8_e4m3 in channels, with "
                "scales in the dtype of the weights (:scale_bf16, :scale_fp16), and nvfp4, mxfp4 and "
                "mxfp8_e4m3 of bfloat16 models; use layout qscale, or plain"
            )

    def convert(self, tensors: dict[str, Tensor], note: Mapping[str, Any]) -> dict[str, Tensor]:
        """Packed codes, scales, zero points and shapes in place of weights."""
        found = dict(tensors)
        for layer in note["quantized"]:
            if layer not in self._specs:
                continue
            stored = _tensors(found.pop(f"{layer}.weight"), self._specs[layer])
            assert stored is not None
            found |= {f"{layer}.{name}": tensor for name, tensor in stored.items()}
        return found

    def config(self) -> dict[str, Any]:
        """A group of layers for each spec, by their names."""
        by_spec: dict[str, list[str]] = {}
        for layer, spec in self._specs.items():
            by_spec.setdefault(str(spec), []).append(layer)
        groups = {
            f"group_{i}": {
                "targets": layers,
                "weights": _arguments(QuantSpec.parse(text)),
                "input_activations": None,
                "output_activations": None,
                "format": _format(QuantSpec.parse(text)),
            }
            for i, (text, layers) in enumerate(by_spec.items())
        }
        formats = {group["format"] for group in groups.values()}
        return {
            "quant_method": "compressed-tensors",
            "format": formats.pop() if len(formats) == 1 else "mixed-precision",
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": [],
            "kv_cache_scheme": None,
        }


def _bits(spec: QuantSpec) -> int | None:
    """Of an integer format that the layout packs."""
    digits = spec.format.removeprefix("int")
    bits = int(digits) if spec.format.startswith("int") and digits.isdigit() else None
    return bits if bits in _PACKED else None


def _format(spec: QuantSpec) -> str:
    if spec.format in BLOCK_FLOATS:
        return BLOCK_FLOATS[spec.format].name
    return "float-quantized" if spec.format == "fp8_e4m3" else "pack-quantized"


def _arguments(spec: QuantSpec) -> dict[str, Any]:
    if spec.format in BLOCK_FLOATS:
        return BLOCK_FLOATS[spec.format].arguments()
    return {
        "num_bits": 8 if spec.format == "fp8_e4m3" else _bits(spec),
        "type": "float" if spec.format == "fp8_e4m3" else "int",
        "symmetric": spec.symmetric,
        "strategy": spec.strategy,
        "group_size": spec.group_size,
        "dynamic": False,
    }


def _tensors(weight: Tensor, spec: QuantSpec) -> dict[str, Tensor] | None:
    """What the library has in place of a rounded weight; None where nothing of it gives back the bits."""
    if spec.format in BLOCK_FLOATS:
        return block_float_tensors(weight, spec)
    codes = codes_of(weight, spec)
    if codes is None:
        return None
    found = {"weight_scale": codes.scale}
    if codes.codes.dtype == torch.float8_e4m3fn:
        return found | {"weight": codes.codes}
    bits = _bits(spec)
    assert bits is not None
    found |= {"weight_packed": pack(codes.codes, bits), "weight_shape": torch.tensor(weight.shape)}
    if codes.zero is not None:
        found["weight_zero_point"] = pack(codes.zero.t().contiguous(), bits).t().contiguous()
    return found


def codes_of(weight: Tensor, spec: QuantSpec) -> Codes | None:
    """Codes and scales of the library that give back a rounded weight to the bit; None where there are none.

    A scale is looked for among the largest magnitude of the group divided by each value of the format, and
    the numbers beside it, in the weight's dtype.
    """
    bits, is_float = _bits(spec), spec.format == "fp8_e4m3"
    if bits is None and not (is_float and spec.strategy == "channel"):
        return None
    rows, width = weight.shape
    length = width if spec.strategy == "channel" else spec.group_size
    if spec.strategy not in ("group", "channel") or not length or width % length:
        return None
    groups = weight.detach().reshape(-1, length)
    largest = groups.abs().amax(1, keepdim=True).float()
    scale = torch.ones_like(largest, dtype=weight.dtype)
    open_ = (largest[:, 0] > 0).nonzero()[:, 0]  # a group of zeros has them under every scale
    for value in _values(spec, bits):
        for step in _STEPS:
            if not len(open_):
                break
            tried = _beside((largest[open_] / value).to(weight.dtype), step)
            fits = _fits(groups[open_], tried, spec, bits)
            scale[open_[fits]] = tried[fits]
            open_ = open_[~fits]
    if len(open_):
        return None
    levels = _levels(groups, scale, is_float=is_float)
    shape = (rows, width // length)
    if is_float:
        return Codes(
            codes=levels.to(torch.float8_e4m3fn).reshape(rows, width), scale=scale.reshape(shape), zero=None
        )
    assert bits is not None
    zero = None
    if not spec.symmetric:
        zero = -(2.0 ** (bits - 1)) - levels.amin(1, keepdim=True).clamp(max=0.0)
        levels = levels + zero
        zero = zero.to(torch.int8).reshape(shape)
    return Codes(codes=levels.to(torch.int8).reshape(rows, width), scale=scale.reshape(shape), zero=zero)


def _values(spec: QuantSpec, bits: int | None) -> Iterator[float]:
    """What the largest magnitude of a group may be in steps, the likely ones first."""
    if bits is None:
        grid = torch.arange(1, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        yield from sorted(set(grid.tolist()), reverse=True)
        return
    yield from range(2 ** (bits - 1) - 1 if spec.symmetric else 2**bits - 1, 0, -1)
    if spec.symmetric:
        yield 2 ** (bits - 1)


def _beside(scale: Tensor, step: int) -> Tensor:
    """The number so many last bits away; positive numbers are ordered as their bits are."""
    kind = {4: torch.int32, 2: torch.int16}[scale.element_size()]
    moved: Tensor = scale.view(kind) + step
    return moved.view(scale.dtype)


def _levels(groups: Tensor, scale: Tensor, *, is_float: bool) -> Tensor:
    ratio: Tensor = groups.float() / scale.float()
    if is_float:
        return ratio.clamp(-_E4M3, _E4M3).to(torch.float8_e4m3fn).float()
    return ratio.round()


def _fits(groups: Tensor, scale: Tensor, spec: QuantSpec, bits: int | None) -> Tensor:
    """Which groups are codes of the format times their scale, to the bit."""
    levels = _levels(groups, scale, is_float=bits is None)
    exact: Tensor = (levels.to(groups.dtype) * scale == groups).all(1)
    if bits is None:
        return exact
    low, high = levels.amin(1), levels.amax(1)
    if spec.symmetric:
        within: Tensor = (low >= -(2 ** (bits - 1))) & (high <= 2 ** (bits - 1) - 1)
    else:
        within = high.clamp(min=0.0) - low.clamp(max=0.0) <= 2**bits - 1
    return exact.logical_and(within)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Signed codes ``(rows, n)`` as int32 words, the first in the lowest bits, ``2**(bits-1)`` added to each.

    Example:
        >>> pack(torch.tensor([[-8, -7, 7]], dtype=torch.int8), 4).tolist()
        [[3856]]
    """
    each = 32 // bits
    unsigned = nn.functional.pad(codes.long() + 2 ** (bits - 1), (0, -codes.shape[1] % each))
    shifts = torch.arange(each, device=codes.device) * bits
    words = (unsigned.reshape(len(codes), -1, each) << shifts).sum(2)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)
