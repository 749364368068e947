"""The CUDA ops on the emulator, in place of the CPU's kernels: ``pytest -p cuda_emulator.emulated``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cuda_emulator.build import CSRC, HERE, build


def library() -> Path:
    """Bindings and kernels, compiled for the emulator and registered for CPU tensors."""
    import torch

    folder = Path(torch.__file__).parent
    bindings = sorted((CSRC / "bindings").glob("cuda_*.cpp"))
    with_torch = [HERE / "emulated_ops.cpp", *bindings]
    options = (
        *("-O0", "-fvisibility=hidden", "-DTORCH_TARGET_VERSION=0x020b000000000000"),
        *("-isystem", str(folder / "include")),
    )
    return build(
        [*with_torch, *sorted((CSRC / "cuda").glob("*.cu"))],
        more=dict.fromkeys(with_torch, options),
        libraries=(str(folder / "lib" / "libtorch_cpu.so"),),
    )


def _install() -> None:
    """Have the ops run on the emulator, before a test asks which instruction sets there are."""
    os.environ["QSCALE_KERNELS"] = "OFF"
    import torch

    from qscale.kernels.dialects.compiled import keep_logarithms
    from qscale.kernels.hadamard import keep_base_matrices  # with it the ops are defined

    torch.ops.load_library(library())
    sys.modules["qscale.kernels.backends"]._refusals["cpu"] = None  # the function has the module's name
    keep_base_matrices()
    keep_logarithms()


_install()
