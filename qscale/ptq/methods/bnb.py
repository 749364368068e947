"""bitsandbytes' own rounding of weights, NF4 and INT8, by the library itself: a yardstick."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from qscale.errors import ConfigError, SpecError
from qscale.formats import QuantSpec
from qscale.ptq.layers import Layer, Rounded
from qscale.ptq.methods.method import Kind, Step, parameter
from qscale.ptq.statistics import Statistics
from qscale.quantizers import Absmax

#: Sizes of blocks that the library has.
_BLOCKS = tuple(2**power for power in range(5, 13))


@dataclass(frozen=True, slots=True, kw_only=True)
class BnbNF4(Step):
    """NF4 of bitsandbytes (Dettmers et al. 2023, QLoRA, arXiv:2305.14314): ``quantize_4bit`` and back.

    Blocks are those of the weight laid out flat, of the spec's size, such as ``nf4:g64``, the library's
    default. With ``double`` their absmax are quantized to 8 bits, 256 at a time (``compress_statistics``).
    The weight goes in as one row: where blocks are not whole in a row, version 0.50.2 on a CPU would
    dequantize with wrong scales.

    Bits are those of what the library keeps: codes, float32 absmax, or 8 bits with float32 of 256 and an
    offset. Its tables, which are the same for all tensors, and its notes of sizes are not counted.
    """

    name: ClassVar[str] = "bnb_nf4"
    kind: ClassVar[Kind] = "round"

    double: bool = parameter(False, "quantization of the absmax")

    def check(self, layer: Layer) -> None:
        functional()
        spec = layer.spec
        served = spec is not None and spec.format == "nf4" and spec.group_size in _BLOCKS
        if not served or not _is_plain(layer, ("qscale", "bitsandbytes")):
            raise SpecError(f"{spec}: {self.name} rounds to NF4 in blocks of 32, 64, ..., 4096; use nf4:g64")

    def round(self, layer: Layer, weight: Tensor, statistics: Statistics) -> Rounded:  # noqa: ARG002
        """Codes of the library, and what it makes of them."""
        assert layer.spec is not None
        library = functional()
        flat = weight.to(layer.dtype).reshape(1, -1).contiguous()
        codes, state = library.quantize_4bit(
            flat, blocksize=layer.spec.group_size, quant_type="nf4", compress_statistics=self.double
        )
        rounded = library.dequantize_4bit(codes, state).float().reshape(weight.shape)
        kept = [codes, state.absmax]
        if state.nested:
            kept += [state.state2.absmax, state.offset]
        return Rounded(weight=rounded, bits=sum(_bits(part) for part in kept) / weight.numel())


@dataclass(frozen=True, slots=True, kw_only=True)
class BnbInt8(Step):
    """INT8 weights of bitsandbytes (Dettmers et al. 2022, LLM.int8(), arXiv:2208.07339), a scale a row.

    As its ``Linear8bitLt`` does it: the weight in float16, then ``int8_vectorwise_quant``, and back. Spec:
    ``int8:channel``. Inputs stay the recipe's; the library's own split of inputs, whose outlier columns are
    multiplied in float16, is not part of it. Bits: 8, and a float32 a row.

    Raises:
        ConfigError: The weight is beyond float16.
    """

    name: ClassVar[str] = "bnb_int8"
    kind: ClassVar[Kind] = "round"

    def check(self, layer: Layer) -> None:
        functional()
        spec = layer.spec
        served = spec is not None and spec.format == "int8" and spec.strategy == "channel" and spec.symmetric
        if not served or not _is_plain(layer, ("qscale",)):
            raise SpecError(f"{spec}: {self.name} rounds to INT8 with a scale a row; use int8:channel")

    def round(self, layer: Layer, weight: Tensor, statistics: Statistics) -> Rounded:  # noqa: ARG002
        """Codes of the library, and what it makes of them."""
        library = functional()
        half = weight.to(torch.float16)
        if not bool(half.isfinite().all()):
            raise ConfigError(f"layer {layer.name}: its weight is beyond float16, in which {self.name} works")
        codes, scales, _ = library.int8_vectorwise_quant(half)
        rounded = library.int8_vectorwise_dequant(codes, scales).float()
        return Rounded(weight=rounded, bits=(_bits(codes) + _bits(scales)) / weight.numel())


def functional() -> Any:
    """``bitsandbytes.functional``.

    Raises:
        ConfigError: The library is not installed.
    """
    try:
        return importlib.import_module("bitsandbytes.functional")
    except ImportError as error:
        raise ConfigError(f"bitsandbytes is not there: pip install bitsandbytes ({error})") from error


def _is_plain(layer: Layer, dialects: tuple[str, ...]) -> bool:
    spec = layer.spec
    assert isinstance(spec, QuantSpec)
    plain = spec.rounding == "even" and spec.scale_dtype is None and spec.dialect in dialects
    return plain and isinstance(layer.quantizer, Absmax)


def _bits(kept: Tensor) -> int:
    return 8 * kept.numel() * kept.element_size()
