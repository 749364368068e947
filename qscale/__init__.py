"""qscale: how much loss does quantization cost at model size N, after D tokens, with G elements a scale?

Public names are found on first use, so that ``import qscale`` loads neither torch nor NumPy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qscale import laws, planning
    from qscale.formats import QuantSpec, Recipe
    from qscale.kernels import dequantize, fake_quant, hadamard, quantize, rotate_fake_quant

    __version__: str

#: Where each public name lives; an empty name stands for the module itself.
_PUBLIC = {
    "QuantSpec": ("qscale.formats", "QuantSpec"),
    "Recipe": ("qscale.formats", "Recipe"),
    "dequantize": ("qscale.kernels", "dequantize"),
    "fake_quant": ("qscale.kernels", "fake_quant"),
    "hadamard": ("qscale.kernels", "hadamard"),
    "laws": ("qscale.laws", ""),
    "planning": ("qscale.planning", ""),
    "quantize": ("qscale.kernels", "quantize"),
    "rotate_fake_quant": ("qscale.kernels", "rotate_fake_quant"),
}

__all__ = [
    "QuantSpec",
    "Recipe",
    "__version__",
    "dequantize",
    "fake_quant",
    "hadamard",
    "laws",
    "planning",
    "quantize",
    "rotate_fake_quant",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _version()
    elif name in _PUBLIC:
        module, attribute = _PUBLIC[name]
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name != "torch":
                raise
            raise ModuleNotFoundError(
                f"qscale.{name} needs torch: pip install torch, then qscale with its train extra",
                name="torch",
            ) from error
        value = getattr(found, attribute) if attribute else found
    else:
        raise AttributeError(f"module 'qscale' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("qscale")
    except metadata.PackageNotFoundError:
        return "0+uninstalled"  # run from a source tree that was not installed
