"""Every implementation that this machine can run, each as a function like ``fake_quant`` or ``hadamard``."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from qscale.errors import BackendError
from qscale.kernels import fake_quant, hadamard, use_backend, use_isa


def _runs(isa: str) -> bool:
    try:
        with use_isa(isa):
            return True
    except BackendError:
        return False


IMPLEMENTATIONS = ["reference", *(isa for isa in ("plain", "avx2", "avx512") if _runs(isa))]


@pytest.fixture(params=IMPLEMENTATIONS, scope="session")
def quantize(request: pytest.FixtureRequest) -> Callable[[Tensor, str], Tensor]:
    name = request.param

    def run(x: Tensor, spec: str) -> Tensor:
        if name == "reference":
            with use_backend("reference"):
                return fake_quant(x, spec)
        with use_backend("cpu"), use_isa(name):
            return fake_quant(x, spec)

    return run


@pytest.fixture(params=IMPLEMENTATIONS, scope="session")
def rotate(request: pytest.FixtureRequest) -> Callable[..., Tensor]:
    name = request.param

    def run(x: Tensor, block: int | None = None, signs: Tensor | None = None, **more: bool) -> Tensor:
        if name == "reference":
            with use_backend("reference"):
                return hadamard(x, block, signs, **more)
        with use_backend("cpu"), use_isa(name):
            return hadamard(x, block, signs, **more)

    return run
