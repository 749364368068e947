"""Weights alone: turned back and divided, what quantizes inputs left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from qscale.ptq.inputs import Divided, unshared
from qscale.ptq.layouts.layout import Layout
from qscale.ptq.stored import built
from qscale.quantizers import Rotated

_INPUT = ".input_quantizer."


class Plain(Layout):
    """Layers compute what the quantized ones do, up to rounding in the weights' dtype, if inputs are left."""

    name: ClassVar[str] = "plain"

    def convert(self, tensors: dict[str, Tensor], note: Mapping[str, Any]) -> dict[str, Tensor]:
        """Weights in the basis of plain inputs."""
        found = {key: x for key, x in tensors.items() if _INPUT not in key}
        for group in note["inputs"]:
            for layer in group["layers"]:
                weight = found[f"{layer}.weight"]
                quantizer = built(group["quantizer"], weight.shape[1])
                assert quantizer is not None
                prefix = f"{layer}{_INPUT}"
                own = {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(prefix)}
                quantizer.load_state_dict(own)
                bias = found.get(f"{layer}.bias")
                found[f"{layer}.weight"], bias = turned_back(weight, bias, quantizer)
                if bias is not None:
                    found[f"{layer}.bias"] = bias
        return found

    def config(self) -> None:
        """There is none."""


def turned_back(
    weight: Tensor, bias: Tensor | None, quantizer: nn.Module | None
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias for an input that no quantizer changes."""
    wide = weight.float()
    module = unshared(quantizer)
    divided = module if isinstance(module, Divided) else None
    inner = module if divided is None else divided.quantizer
    if isinstance(inner, Rotated):
        wide = inner.from_basis(wide)
    if divided is not None:
        wide = wide / divided.scale
        if divided.shift is not None and bias is not None:
            bias = (bias.float() - wide @ divided.shift).to(weight.dtype)
    return wide.to(weight.dtype).contiguous(), bias
